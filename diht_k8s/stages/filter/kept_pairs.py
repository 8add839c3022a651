"""The files of kept pairs, one a shard, and the rules on the whole pool that drop pairs from them later.

Input: the pairs in order. Output: a tar with copies of them or, with `output: KeepList`, their indices, by which later
stages read the raw shard. A later rule (`GlobalRule`) begins once all shards are filtered: workers share its search,
then the shards, by claims; kept pairs and scores are rewritten without what it drops, and the header of the scores
records that it was applied.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError
from diht_k8s.api.filter import Filter
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.pairs import KeepListRow, write_keep_list
from diht_k8s.data.shards.parquet import row_count, write_table
from diht_k8s.data.shards.samples import Sample, count_samples, read_samples, storable
from diht_k8s.data.shards.shard_index import pack_starts
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import TarDigest, held_members, write_samples
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter.scores import Row, Scores, header_of, read_scores, schema_of, to_batch
from diht_k8s.stages.filter.summary import Summary

_BATCH: Final = 1024

WrittenFile = dict[str, Any]
"""`size` in bytes and `sha256` of a file, and the `pairs` in it, counted in what was written; `starts` of its samples
where
it holds copies (`shards.index.packed`)."""


@dataclass(frozen=True)
class KeptPairs:
    """The files of kept pairs, one per shard."""

    storage: Storage
    layout: Layout
    output: Literal["Shards", "KeepList"]

    def path(self, shard: str) -> str:
        """Path of a shard's file, relative to the folder of the stage."""
        return self.uri(shard).removeprefix(self.layout.stage(Stage.FILTER) + "/")

    def write(self, shard: str, pairs: Iterable[tuple[int, Row, Sample]]) -> WrittenFile:
        """Write the kept pairs of a shard.

        Args:
            shard: name of the shard.
            pairs: index in the raw shard, row and sample of each kept pair.
        """
        if self.output == "KeepList":
            return self._write_list(shard, [KeepListRow(number, row.uid) for number, row, _ in pairs])
        return self._write_copies(shard, ((sample.key, sample.members) for _, _, sample in pairs))

    def rewrite(self, shard: str, rows: Sequence[Row], gone: Collection[int]) -> WrittenFile:
        """Rewrite a shard's file without some pairs; nothing changes if they were already dropped.

        Args:
            shard: name of the shard.
            rows: its scores before this call.
            gone: indices of the rows to drop.

        Raises:
            DataError: the file does not match the scores.
        """
        kept = [number for number, row in enumerate(rows) if row.kept]
        left = [number for number in kept if number not in gone]
        if self.output == "KeepList":
            return self._write_list(shard, [KeepListRow(number, rows[number].uid) for number in left])
        uri = self.uri(shard)
        held = count_samples(self.storage, uri)
        if held not in (len(kept), len(left)):
            raise DataError(f"{uri} holds {held} pairs where {len(kept)} were kept: run the stage filter again")
        stays = {place for place, number in enumerate(kept) if held == len(left) or number not in gone}
        return self._write_copies(shard, self._copies(uri, stays) if left else ())

    def drop(self, shard: str, scores: Scores, gone: Collection[int], reason: str, *, mark: str) -> None:
        """Drop kept pairs of a shard by a later rule: from its file first, then from its scores.

        Args:
            shard: name of the shard.
            scores: of the shard.
            gone: indices of the rows to drop.
            reason: the rule.
            mark: name in the header of the scores that says that the rule was applied.
        """
        rows, header = list(scores.rows()), {**scores.header, mark: True}
        if gone:
            header["kept"] = self.rewrite(shard, rows, gone)
            summary = Summary.from_json(header["summary"])
            summary.drop([rows[number] for number in sorted(gone)], reason)
            header["summary"] = summary.to_json()
            rows = [
                replace(row, kept=False, reason=reason) if number in gone else row for number, row in enumerate(rows)
            ]
        write_scores(self.storage, self.layout.scores(shard), rows, header)

    def _copies(self, uri: str, stays: Collection[int]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """The copies at these positions; uids may repeat within a shard."""
        for place, sample in enumerate(read_samples(self.storage, uri)):
            if place in stays:
                yield sample.key, sample.members

    def _write_copies(self, shard: str, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> WrittenFile:
        digest, members = TarDigest(), list[int]()

        def counted() -> Iterator[tuple[str, Mapping[str, bytes]]]:
            for key, parts in samples:
                members.append(len(held_members(parts)))
                yield key, parts

        uri = self.uri(shard)
        write_samples(self.storage, uri, counted(), digest=digest)
        held, written = Count(sum(members), "members do its pairs have"), Count(digest.members, "members were written")
        require_equal(uri, "run the stage filter again", held, written)
        return {
            "size": digest.size,
            "sha256": digest.sha256,
            "pairs": digest.samples,
            "starts": pack_starts(digest.starts(members)),
        }

    def _write_list(self, shard: str, listed: Sequence[KeepListRow]) -> WrittenFile:
        return _written(write_keep_list(self.storage, self.uri(shard), listed))

    def uri(self, shard: str) -> str:
        """A shard's file."""
        return self.layout.keep_list(shard) if self.output == "KeepList" else self.layout.kept(shard)


def _written(table: bytes) -> WrittenFile:
    return {"size": len(table), "sha256": hashlib.sha256(table).hexdigest(), "pairs": row_count(table)}


SURVIVORS: Final = "survivors"
UID, URL, TEXT, DIGEST = "uid", "url", "text", "sha256"
"""Columns of such a table."""


@dataclass(frozen=True)
class DownloadList:
    """The tables of a run's kept pairs, one a part."""

    storage: Storage
    layout: Layout
    numbers: Sequence[str]
    """names of the numbers of `metadataLimits`, which travel with the pairs."""

    def uri(self, shard: str) -> str:
        """The table of a part."""
        return join(self.layout.stage(Stage.FILTER), self.path(shard))

    def path(self, shard: str) -> str:
        """The table relative to the folder of the stage."""
        return f"{SURVIVORS}/{shard}.parquet"

    def write(self, shard: str, pairs: Iterable[tuple[int, Row, Sample]]) -> WrittenFile:
        """Write the kept pairs of a part."""
        numbers = [name for name in self.numbers if name not in (UID, URL, TEXT, DIGEST)]
        schema = pa.schema(
            {**dict.fromkeys((UID, URL, TEXT, DIGEST), pa.string()), **dict.fromkeys(numbers, pa.float64())}
        )
        listed = [
            {
                UID: row.uid,
                URL: storable(sample.meta["url"]),
                TEXT: sample.caption,
                DIGEST: digest if isinstance(digest := sample.meta.get(DIGEST), str) else None,
                **{name: sample.meta.get(name) for name in numbers},
            }
            for _, row, sample in pairs
        ]
        data = write_table(self.storage, self.uri(shard), pa.Table.from_pylist(listed, schema=schema), {})
        return _written(data)

    def uids(self, shard: str) -> list[str]:
        """The uids of a part's kept pairs, in order."""
        column: Any = pq.read_table(io.BytesIO(self.storage.read_bytes(self.uri(shard))), columns=[UID])[UID]
        return column.to_pylist()


def write_scores(storage: Storage, uri: str, rows: Sequence[Row], header: dict[str, Any]) -> None:
    """Write the scores of a shard."""
    schema = schema_of(header)
    batches = [to_batch(rows[start : start + _BATCH], schema) for start in range(0, len(rows), _BATCH)]
    write_table(storage, uri, pa.Table.from_batches(batches), header)


class GlobalRule(ABC):
    """A rule that drops kept pairs, shard by shard, by what it knows of all of them."""

    mark: ClassVar[str]
    """name in the header of the scores that says that the rule was applied."""
    claim: ClassVar[str]
    """what the names of its claims end with."""
    reason: ClassVar[str]
    """of the pairs that it drops."""

    def __init__(self, context: Context, rules: Filter, shards: Sequence[Shard], claims: Claims) -> None:
        """Prepare.

        Args:
            context: the stage's context.
            rules: the run's rules.
            shards: all shards in order; filtered, and the rules before this one applied.
            claims: record which worker works on what.
        """
        self.context, self.rules, self.shards, self.claims = context, rules, shards, claims
        self._done: set[str] = set()

    @classmethod
    def is_applied(cls, header: Mapping[str, Any]) -> bool:
        """Whether the rule has dropped its pairs from the shard with this header of its scores."""
        return bool(header.get(cls.mark))

    @abstractmethod
    def search(self) -> tuple[bool, int]:
        """Work on what must be known of the pool.

        Returns:
            Whether there was anything to do, and the number of steps that others have not finished yet; (False, 0) once
            it is known.
        """

    @abstractmethod
    def drops(self, number: int, scores: Scores) -> Collection[int]:
        """The rows of a shard that the rule drops."""

    def run(self) -> tuple[bool, int]:
        """Search with the other workers, then process the shards that none of them has claimed.

        Returns:
            Whether there was anything to do, and the number of steps or shards that others have not finished yet.
        """
        own, workers = self.context.worker, self.context.workers
        order = sorted(range(len(self.shards)), key=lambda number: (number % workers != own, number))
        worked, waiting = False, 0
        for number in order:
            shard = self.shards[number]
            if shard.name in self._done:
                continue
            self.pause()
            if self.is_applied(header_of(self.context.storage, self.scores_uri(shard))):
                self._done.add(shard.name)
                continue
            searched, others = self.search()
            if searched or others:
                return worked or searched, others
            if self.claims.take(f"{shard.name} {self.claim}"):
                self._drop(number)
                self._done.add(shard.name)
                worked = True
            else:
                waiting += 1
        return worked, waiting

    def scores_uri(self, shard: Shard) -> str:
        """The scores of a shard."""
        return self.context.layout.scores(shard.name)

    def pause(self) -> None:
        """Where the work may stop."""
        self.context.stop.raise_if_requested("finished shards are kept")

    def _drop(self, number: int) -> None:
        context, shard = self.context, self.shards[number]
        scores = read_scores(context.storage, self.scores_uri(shard))
        files = KeptPairs(context.storage, context.layout, self.rules.output)
        files.drop(shard.name, scores, self.drops(number, scores), self.reason, mark=self.mark)
