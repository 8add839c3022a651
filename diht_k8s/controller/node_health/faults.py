"""Faults of nodes, as node monitors report them (conditions that are True, and taints), and the watch of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.controller.cache.informer import OptionalWatch
from diht_k8s.controller.cache.watch import WATCH_S
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.client import PAGE
from diht_k8s.kube.object_fields import Document, Unreadable, guarded

MOVES: Final = ("NextCheckpoint", "AtOnce")
KINDS: Final = ("condition", "taint")
MAX_DESCRIPTION: Final = 200


@dataclass(frozen=True)
class WatchedFault:
    """A fault that a monitor may report."""

    kind: str
    """condition or taint."""
    name: str
    """type of the condition, key of the taint."""
    at_once: bool = False
    """whether a gang leaves at once and not after its next checkpoint."""


@dataclass(frozen=True)
class NodeFault:
    """A fault of a node."""

    node: str
    name: str
    description: str
    """for a person, with the monitor's own message."""
    at_once: bool = False


def parse_watched_faults(text: str) -> tuple[WatchedFault, ...]:
    """The faults of the option `--node-faults`, a JSON list of `{"condition": NAME}` and `{"taint": KEY}`.

    Raises:
        ValueError: it is another thing; the message says what.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("write a JSON list")
    return tuple(_watched(entry) for entry in entries)


def _watched(entry: Any) -> WatchedFault:
    example = 'write {"condition": NAME} or {"taint": KEY}, each with "move": "AtOnce" if it is urgent'
    if not isinstance(entry, dict) or len(kinds := [kind for kind in KINDS if isinstance(entry.get(kind), str)]) != 1:
        raise ValueError(f"{json.dumps(entry)}: {example}")
    move = entry.get("move", MOVES[0])
    if move not in MOVES or not entry.keys() <= {*KINDS, "move"}:
        raise ValueError(f"{json.dumps(entry)}: {example}")
    return WatchedFault(kinds[0], entry[kinds[0]], at_once=move == "AtOnce")


def faults_of(document: Mapping[str, Any], watched: Iterable[WatchedFault]) -> tuple[NodeFault, ...]:
    """The faults of a node, urgent ones first."""
    name = document["metadata"]["name"]
    conditions = {each["type"]: each for each in (document.get("status") or {}).get("conditions") or ()}
    taints = {each["key"]: each for each in (document.get("spec") or {}).get("taints") or ()}
    found = []
    for each in watched:
        if each.kind == "condition" and conditions.get(each.name, {}).get("status") == "True":
            said = conditions[each.name].get("message", "")
            description = f"condition {each.name}" + (f" ({said})" if said else "")
        elif each.kind == "taint" and each.name in taints:
            taint = taints[each.name]
            description = f"taint {each.name}={taint.get('value', '')}:{taint.get('effect', '')}"
        else:
            continue
        found.append(NodeFault(name, each.name, one_line(description, MAX_DESCRIPTION), each.at_once))
    return tuple(sorted(found, key=lambda fault: not fault.at_once))


class NodeWatch(OptionalWatch):
    """Keeps the nodes that have faults; a node without any is not kept."""

    def __init__(
        self,
        listing: Callable[..., Any],
        watched: tuple[WatchedFault, ...],
        changed: Callable[[str], None],
        watch_s: int = WATCH_S,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            listing: the list call, which returns a response that can be streamed.
            watched: faults that count.
            changed: called with the name of a node whose faults changed, from the watch's thread.
            watch_s: seconds after which the server is to end a watch.
        """
        super().__init__("Node", listing, page=PAGE, watch_s=watch_s)
        self._watched, self._changed = watched, changed
        self._lock = threading.Lock()
        self._faults: dict[str, tuple[NodeFault, ...]] = {}
        self._uids: dict[str, str] = {}

    def faults(self, node: str) -> tuple[NodeFault, ...]:
        """The faults of a node, urgent ones first; none if it is healthy."""
        with self._lock:
            return self._faults.get(node, ())

    def unhealthy(self) -> list[str]:
        """Names of the nodes that have faults."""
        with self._lock:
            return sorted(self._faults)

    def _add(self, document: Document) -> str | None:
        read = guarded(self._read, document)
        if isinstance(read, Unreadable):
            self._skip(read)
            return None
        assert read is not None, "every node is read"
        name, uid, found = read
        with self._lock:
            before = self._faults.get(name, ())
            if found:
                self._faults[name], self._uids[uid] = found, name
            else:
                self._faults.pop(name, None)
                self._uids.pop(uid, None)
        if found != before:
            self._changed(name)
        return uid

    def _read(self, document: Document) -> tuple[str, str, tuple[NodeFault, ...]]:
        metadata = document["metadata"]
        return metadata["name"], metadata["uid"], faults_of(document, self._watched)

    def _remove(self, metadata: Document) -> None:
        self._drop(metadata["uid"])

    def _retain(self, uids: set[str]) -> None:
        for uid in [uid for uid in self._uids if uid not in uids]:
            self._drop(uid)

    def _outdate(self) -> None:
        """Nothing to do: the newest answer always counts."""

    def _drop(self, uid: str) -> None:
        with self._lock:
            name = self._uids.pop(uid, None)
            found = self._faults.pop(name, None) if name is not None else None
        if name is not None and found:
            self._changed(name)
