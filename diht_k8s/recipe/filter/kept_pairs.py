"""Write what the filter keeps of a shard, and write it anew without pairs that have to go after the fact (takedowns, repeats).

In: the pairs in order. Out: copies of them in a tar, or (`output: KeepList`) their numbers, by which later stages read the raw shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.recipe.filter.scores import Row, to_batch
from diht_k8s.recipe.shards.keep_lists import Listed, write_keep_list
from diht_k8s.recipe.shards.samples import ContentDigest, Sample, count_samples, read_samples, write_samples
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.tables import write_table

_BATCH: Final = 1024

Written = dict[str, Any]
"""`size` and `sha256` of a file."""


@dataclass(frozen=True)
class KeptPairs:
    """The files of the kept pairs, one for each shard."""

    storage: Storage
    layout: Layout
    output: Literal["Shards", "KeepList"]

    def path(self, shard: str) -> str:
        """A shard's file, relative to the stage's folder."""
        return self._uri(shard).removeprefix(self.layout.stage(Stage.FILTER) + "/")

    def write(self, shard: str, pairs: Iterable[tuple[int, Row, Sample]]) -> tuple[int, Written]:
        """Write the kept pairs of a shard; says how many and what was written.

        Args:
            shard: its name.
            pairs: number in the raw shard, row and sample of each pair that is kept.
        """
        if self.output == "KeepList":
            count, written = self._write_list(shard, [Listed(number, row.uid) for number, row, _ in pairs])
            other = self.layout.kept(shard)
        else:
            count, written = self._write_copies(shard, ((sample.key, sample.members) for _, _, sample in pairs))
            other = self.layout.keep_list(shard)
        if self.storage.exists(other):  # of an earlier run: nobody would read it any more, nor take pairs out of it
            self.storage.remove(other)
        return count, written

    def rewrite(self, shard: str, rows: Sequence[Row], gone: Collection[int]) -> Written:
        """Write a shard's file without some pairs; where they have gone already, nothing changes.

        Args:
            shard: its name.
            rows: its scores, as they were.
            gone: numbers of the rows that go.

        Raises:
            DataError: the copies are not those of the scores.
        """
        kept = [number for number, row in enumerate(rows) if row.kept]
        left = [number for number in kept if number not in gone]
        if self.output == "KeepList":
            return self._write_list(shard, [Listed(number, rows[number].uid) for number in left])[1]
        uri = self._uri(shard)
        held = count_samples(self.storage, uri)
        if held not in (len(kept), len(left)):
            raise DataError(f"{uri} holds {held} pairs where {len(kept)} were kept: run the stage filter again")
        stays = {place for place, number in enumerate(kept) if held == len(left) or number not in gone}
        count, written = self._write_copies(shard, self._copies(uri, stays) if left else ())
        assert count == len(left), "a copy for each pair that is left"
        return written

    def _copies(self, uri: str, stays: Collection[int]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        """The copies at these places; keys and uids may repeat within a shard."""
        for place, sample in enumerate(read_samples(self.storage, uri)):
            if place in stays:
                yield sample.key, sample.members

    def _write_copies(self, shard: str, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> tuple[int, Written]:
        digest = ContentDigest()
        count = write_samples(self.storage, self._uri(shard), samples, digest=digest)
        return count, {"size": digest.size, "sha256": digest.sha256}

    def _write_list(self, shard: str, listed: Sequence[Listed]) -> tuple[int, Written]:
        data = write_keep_list(self.storage, self._uri(shard), listed)
        return len(listed), {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _uri(self, shard: str) -> str:
        return self.layout.keep_list(shard) if self.output == "KeepList" else self.layout.kept(shard)


def write_scores(storage: Storage, uri: str, rows: Sequence[Row], header: dict[str, Any]) -> None:
    """Write the rows of a shard."""
    batches = [to_batch(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    write_table(storage, uri, pa.Table.from_batches(batches), header)
