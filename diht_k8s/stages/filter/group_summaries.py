"""Summaries of groups of filtered shards, for the end of the stage: counts, digests, rows of the index, and the ledger.

In: the headers of the scores of a group. Out: one small object for each group, which the end merges; scores are not
read again. A summary belongs to one configuration, by its name.

The ledger: shards in = files out, samples read = scores written, pairs kept = pairs in the kept files. A shard is
checked when its counts enter the summary of its group, and the sums of all groups before the marker, with one listing
of each folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.api.reports import Artefact
from diht_k8s.data.shards.parquet import row_count
from diht_k8s.data.shards.shard_index import IndexedDamage, IndexRow, ShardIndex, unpack_starts, write_part
from diht_k8s.data.shards.sources import Shard, ShardGroup
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.summary import LayoutHints, Summary

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


AGAIN = "remove this file and run the stage filter again"


def check_shard(uri: str, header: Mapping[str, Any], rows: int, summary: Summary) -> None:
    """Compare what was read of a shard with its scores and its kept file.

    Args:
        uri: of the scores.
        header: of the scores.
        rows: of the scores, by their footer.
        summary: the counts of the loop over the samples.

    Raises:
        DataError: they differ.
    """
    counted = Count(summary.accounted, "samples are kept, dropped or bad")
    read = header["read"]
    reader = [] if read is None else [Count(read, "were read of the shard")]
    require_equal(
        uri, AGAIN, counted, Count(summary.input, "were filtered"), Count(rows, "rows are in the scores"), *reader
    )
    kept = Count(header["kept"]["pairs"], "pairs are in the file of kept pairs")
    require_equal(uri, AGAIN, Count(summary.kept, "samples are kept"), kept)


def check_stage(storage: Storage, folder: str, found: GroupSummary, shards: Sequence[str]) -> None:
    """Compare the sums of all groups with each other, with the sources and with the files that are there.

    Args:
        storage: where the stage's folder is.
        folder: of the stage.
        found: the groups' summaries, merged.
        shards: names of all shards, or parts of tables, that the sources list.

    Raises:
        DataError: a number differs, or a file has another size than when it was written.
    """
    total, again = found.total, f"remove {join(folder, 'summaries')} and start the stage filter again"
    require_equal(
        folder,
        again,
        Count(len(shards), "shards are listed"),
        Count(len(set(shards)), "names do they have"),
        Count(len(found.shards), "are summed up"),
        Count(len({shard["name"] for shard in found.shards} & set(shards)), "of them are summed up once"),
    )
    require_equal(
        folder,
        again,
        Count(total.accounted, "samples are kept, dropped or bad"),
        Count(total.input, "were filtered"),
        Count(sum(shard["input"] for shard in found.shards), "are the shards' samples"),
        Count(found.rows, "rows are in the scores"),
    )
    require_equal(
        folder,
        again,
        Count(total.kept, "samples are kept"),
        Count(sum(shard["kept"] for shard in found.shards), "are the shards' kept samples"),
        Count(found.pairs, "pairs are in the files of kept pairs"),
    )
    _check_files(storage, folder, found.artefacts)


def _check_files(storage: Storage, folder: str, written: Sequence[Artefact]) -> None:
    """Compare the files with what their summaries say, by one listing a folder: a disk may have lost some since.

    Raises:
        DataError: a file is missing, has another size, or is one too many.
    """
    by_folder: dict[str, dict[str, int]] = {}
    for item in written:
        place, _, name = item.path.rpartition("/")
        by_folder.setdefault(place, {})[name] = item.size
    for place, expected in by_folder.items():
        there = storage.identities(join(folder, place))
        for name, size in expected.items():
            now = int(there.get(name, "0").partition("-")[0])
            if name not in there or now != size:
                scores = join(folder, "scores", f"{name.rpartition('.')[0]}.parquet")
                state = f"is damaged ({now} bytes where {size} were written)" if name in there else "has gone"
                raise DataError(
                    f"{join(folder, place, name)} {state}: remove {scores} and start the stage filter again"
                )
        suffix = next(iter(expected)).rpartition(".")[2]
        more = sorted(name for name in there if name.endswith(f".{suffix}") and name not in expected)
        require_equal(
            join(folder, place),
            f"move away what the stage has not written ({', '.join(more[:3])})",
            Count(len(expected), "shards"),
            Count(len(expected) + len(more), f"files *.{suffix}"),
        )
