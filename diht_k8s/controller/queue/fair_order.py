"""The order in which waiting keys are worked on: no tenant's flood delays another's key by more than a round. Pure.

In the terms of Kubernetes' API priority and fairness: a key has a priority level, and a flow within it (its namespace).
Flows take turns, one key each, first in first out within a flow. Unlike there, a level has no seats of its own: a level
that waits gets a share of the turns, so that even a flood of a higher level does not starve it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class PriorityLevel(IntEnum):
    """Priority level of a key, highest first."""

    NEW = 0
    """It has had no answer at all: its owner waits for a sign of life."""
    CHANGED = 1
    """Something that it depends on has changed, or its time has come."""
    ENDED = 2
    """It has ended, or is not known (yet): it hardly needs anything."""


PATIENCE: Final = {PriorityLevel.NEW: 0, PriorityLevel.CHANGED: 1, PriorityLevel.ENDED: 15}
"""How many keys of higher levels may go before the next one of a level that waits."""


class FairOrder(Generic[Key]):
    """Waiting keys, each once."""

    def __init__(self) -> None:
        # OrderedDict, for a plain dict whose first key is taken again and again takes quadratic time
        self._flows: dict[PriorityLevel, OrderedDict[Hashable, OrderedDict[Key, float]]] = {
            level: OrderedDict() for level in PriorityLevel
        }
        """the flow whose turn is next comes first; none is empty."""
        self._places: dict[Key, tuple[PriorityLevel, Hashable]] = {}
        self._passed = dict.fromkeys(PriorityLevel, 0)
        """keys of higher levels that went while this level waited, since its last turn."""

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: Key, flow: Hashable, level: PriorityLevel, since: float) -> None:
        """Have a key wait.

        One that waits already keeps its place and its time, unless this level is higher: then it goes to the end of its
        flow there.

        Args:
            key: the key.
            flow: whose key it is; always the same for a key.
            level: its priority level.
            since: when it began to wait.
        """
        if key in self._places:
            if self._places[key][0] <= level:
                return
            since = self._take(key)
        self._flows[level].setdefault(flow, OrderedDict())[key] = since
        self._places[key] = level, flow

    def pop(self) -> tuple[Key, float]:
        """The next key and since when it has waited.

        Raises:
            IndexError: none waits.
        """
        if not self._places:
            raise IndexError("no key waits")
        level = self._next_level()
        flows = self._flows[level]
        flow = next(iter(flows))
        key = next(iter(flows[flow]))
        since = self._take(key)
        if flow in flows:  # its next turn is after all others'
            flows.move_to_end(flow)
        return key, since

    def _next_level(self) -> PriorityLevel:
        waiting = [level for level in PriorityLevel if self._flows[level]]
        highest = waiting[0]
        level = next((low for low in reversed(waiting[1:]) if self._passed[low] >= PATIENCE[low]), highest)
        for each in PriorityLevel:
            if each not in waiting or each == level:
                self._passed[each] = 0
            elif each > level:
                self._passed[each] += 1
        return level

    def _take(self, key: Key) -> float:
        level, flow = self._places.pop(key)
        keys = self._flows[level][flow]
        since = keys.pop(key)
        if not keys:
            del self._flows[level][flow]
        return since
