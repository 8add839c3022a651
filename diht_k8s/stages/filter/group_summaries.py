"""Summaries of groups of filtered shards, for the stage's end: counts, digests, and the rows of the index.

In: the headers of the group's scores. Out: one small object for each group, which the end merges; scores are not read
again. A summary belongs to one configuration, by its name.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from diht_k8s.api.layout import join
from diht_k8s.api.reports import Artefact
from diht_k8s.data.shards.parquet import row_count
from diht_k8s.data.shards.shard_index import IndexedDamage, IndexRow, ShardIndex, unpack_starts, write_part
from diht_k8s.data.shards.sources import Shard, ShardGroup
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.conservation import check_shard
from diht_k8s.stages.filter.layout_hints import LayoutHints
from diht_k8s.stages.filter.summary import Summary

FOLDER: Final = "summaries"
MAX_NAMES: Final = 2000
"""Names of each kind that a group keeps: the report shows the 50 most frequent ones of all."""


@dataclass(frozen=True)
class FilteredShard:
    """A shard whose scores are written."""

    shard: Shard
    header: Mapping[str, Any]
    """of its scores."""
    scores: Artefact
    rows: int
    """of its scores, by their footer."""
    kept_path: str
    """of its kept pairs, relative to the stage's folder."""

    @classmethod
    def of(cls, shard: Shard, header: Mapping[str, Any], content: bytes, kept_path: str) -> FilteredShard:
        """The shard whose scores are a file with this content."""
        path = f"scores/{shard.name}.parquet"
        artefact = Artefact(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        read = json.loads(json.dumps(header, sort_keys=True))  # as a reader has it
        return cls(shard, read, artefact, row_count(content), kept_path)

    @property
    def raw_index(self) -> ShardIndex:
        """Where the samples of the raw shard stand."""
        damage = self.header.get("damage")
        at = None if damage is None else IndexedDamage(damage["reason"], damage["offset"])
        return ShardIndex(
            self.shard.identity or "", self.header["summary"]["input"], unpack_starts(self.header.get("raw")), at
        )

    @property
    def kept_index(self) -> ShardIndex:
        """Where the copies of its kept pairs stand; the identity of their shard is known at the end of the stage."""
        return ShardIndex("", self.header["summary"]["kept"], unpack_starts(self.header["kept"].get("starts")))


@dataclass
class GroupSummary:
    """Summed counts, digests and index rows of some shards."""

    total: Summary = field(default_factory=Summary)
    hints: defaultdict[str, LayoutHints] = field(default_factory=lambda: defaultdict(LayoutHints))
    """by source."""
    shards: list[dict[str, Any]] = field(default_factory=list)
    """name, source and counts of each."""
    rows: int = 0
    """of the scores, by their footers."""
    pairs: int = 0
    """in the files of kept pairs, by what was written into them."""
    artefacts: list[Artefact] = field(default_factory=list)
    damaged: dict[str, Damage] = field(default_factory=dict)
    raw: list[IndexRow] = field(default_factory=list)
    kept: list[IndexRow] = field(default_factory=list)
    """rows of the index of the raw shards, and of their kept pairs."""

    def add(self, found: FilteredShard) -> None:
        """Count a shard.

        Raises:
            DataError: its counts do not add up.
        """
        summary, shard = Summary.from_json(found.header["summary"]), found.shard
        check_shard(found.scores.path, found.header, found.rows, summary)
        self.rows += found.rows
        self.pairs += found.header["kept"]["pairs"]
        self.total.merge(summary)
        self.hints[shard.source].merge(summary.hints)
        if "damage" in found.header:
            self.damaged[shard.name] = Damage(**found.header["damage"])
        self.shards.append({"name": shard.name, "source": shard.source, **summary.counts()})
        self.artefacts += [found.scores, Artefact(path=found.kept_path, **found.header["kept"])]

    def merge(self, other: GroupSummary) -> None:
        """Add the shards behind these."""
        self.total.merge(other.total)
        for source, hints in other.hints.items():
            self.hints[source].merge(hints)
        self.shards += other.shards
        self.rows += other.rows
        self.pairs += other.pairs
        self.artefacts += other.artefacts
        self.damaged |= other.damaged
        self.raw += other.raw
        self.kept += other.kept

    def to_json(self) -> dict[str, Any]:
        """The summary as it is stored; the same shards give the same text."""
        return {
            "total": self.total.to_json(names=MAX_NAMES),
            "hints": {source: self.hints[source].to_json() for source in sorted(self.hints)},
            "shards": self.shards,
            "rows": self.rows,
            "pairs": self.pairs,
            "artefacts": [[item.path, item.size, item.sha256] for item in self.artefacts],
            "damaged": {name: damage.to_json() for name, damage in sorted(self.damaged.items())},
            "raw": [list(row) for row in self.raw],
            "kept": [list(row) for row in self.kept],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GroupSummary:
        """Read a stored summary."""
        hints = {source: LayoutHints.from_json(found) for source, found in data["hints"].items()}
        return cls(
            total=Summary.from_json(data["total"]),
            hints=defaultdict(LayoutHints, hints),
            shards=data["shards"],
            rows=data["rows"],
            pairs=data["pairs"],
            artefacts=[Artefact(path=path, size=size, sha256=digest) for path, size, digest in data["artefacts"]],
            damaged={name: Damage(**damage) for name, damage in data["damaged"].items()},
            raw=[IndexRow(*row) for row in data["raw"]],
            kept=[IndexRow(*row) for row in data["kept"]],
        )


def summarised(found: Iterable[FilteredShard]) -> GroupSummary:
    """The summary of some shards, without index."""
    summary = GroupSummary()
    for each in found:
        summary.add(each)
    return summary


class GroupSummaries:
    """The summaries of a stage under its configuration."""

    def __init__(self, context: Context, *, final: bool) -> None:
        """Prepare.

        Args:
            context: the stage's context.
            final: whether the rules that look at the whole input have been applied, where the run has any.
        """
        self._context = context
        self._folder = join(context.layout.stage(context.stage), FOLDER)
        self._ending = f"-{context.config_sha256[:12]}{'' if final else '-filtered'}.json"

    def uri(self, group: ShardGroup) -> str:
        """Where the summary of a group lies."""
        return join(self._folder, self._name(group))

    def written(self, groups: Sequence[ShardGroup], scored: Collection[str]) -> set[int]:
        """Numbers of the groups that are summed up, by one listing.

        Args:
            groups: all groups.
            scored: names of the shards whose files are there; a summary whose shards lack them does not count.
        """
        names = set(self._context.storage.names(self._folder))
        return {
            group.number
            for group in groups
            if self._name(group) in names and all(shard.name in scored for shard in group.shards)
        }

    def write(self, group: ShardGroup, found: Sequence[FilteredShard]) -> None:
        """Write the places of a group's samples, then its summary."""
        storage, layout, summary = self._context.storage, self._context.layout, summarised(found)
        raw = [(each.shard.name, each.raw_index) for each in found]
        summary.raw = write_part(storage, layout.filter_index("raw"), group.number, raw)
        if any("starts" in each.header["kept"] for each in found):
            kept = [(each.shard.name, each.kept_index) for each in found]
            summary.kept = write_part(storage, layout.filter_index("kept"), group.number, kept)
        storage.write_bytes(self.uri(group), json.dumps(summary.to_json(), ensure_ascii=False).encode())

    def read(self, group: ShardGroup) -> GroupSummary:
        """The summary of a group."""
        return GroupSummary.from_json(json.loads(self._context.storage.read_bytes(self.uri(group))))

    def forget(self, group: ShardGroup) -> None:
        """Remove what other configurations have left of a group whose shards are filtered again."""
        storage, start = self._context.storage, f"{group.number:05d}-"
        for name in storage.names(self._folder):
            if name.startswith(start):
                storage.remove(join(self._folder, name))

    def _name(self, group: ShardGroup) -> str:
        return f"{group.number:05d}{self._ending}"
