"""Groups of neighbouring shards: what a worker claims at once, and whose counts and places are one object each.

A run of few shards has groups of one. The groups depend on the shards alone, so every worker has the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diht_k8s.data.shards.sources import Shard

MAX_GROUPS: Final = 1024
"""As many as a thousand workers share; the stage's end reads one object of each."""
MAX_SHARDS: Final = 128
"""Of a group: its claim is held for hours otherwise."""


@dataclass(frozen=True)
class ShardGroup:
    """Some neighbouring shards."""

    number: int
    shards: Sequence[Shard]

    @property
    def name(self) -> str:
        """Of its claim: that of its shard where it has one."""
        return self.shards[0].name if len(self.shards) == 1 else f"group {self.number:05d}"


def groups_of(shards: Sequence[Shard]) -> list[ShardGroup]:
    """All shards of a stage in groups, in order."""
    size = min(max(-(-len(shards) // MAX_GROUPS), 1), MAX_SHARDS)
    return [ShardGroup(number, shards[at : at + size]) for number, at in enumerate(range(0, len(shards), size))]
