"""Deduplication: repeated images are dropped from the kept shards (`filter.duplicates`) once all shards are filtered.

Input: the kept shards, each with a file of fingerprints that was written before its scores. Output: kept shards and
scores without the pairs whose image repeats an earlier kept image of the pool (reason `duplicate`); the header of the
scores records that this was done. All kept images of the pool are compared, including those that are repeats
themselves, so the result does not depend on which worker runs when.

Workers share a search in two passes by partitions, then the shards (`kept_pairs`). Each step is claimed by one
worker.

1. **Spread**: for SHARDS_PER_CHUNK shards at a time, the fingerprint and the number of each kept image are written as
   records, sorted by partition. Images that may repeat each other share a partition: for `Exact` by their digest, for
   `Near` by their root in each table of the `minhash_forest`.
2. **Search**: a unit of adjacent partitions is read from all chunks, by ranges, and the numbers of the images that
   repeat an earlier one are written as a list. One worker then joins the lists to one bit for each image of the pool
   (`Layout.repeats`) and removes the rest.

A number is that of the shard (upper 32 bits) and the place among its kept pairs (lower 32): numbers grow in the order
of the pool, and "earlier" depends on the data alone. So does the result: partitions hold all candidates of their
images, whichever worker reads them. Memory is bounded by BLOCK_IMAGES and by the largest partition, of which equal
images are folded as they are read; it does not grow with the number of units.

Shapes: N images, R records of a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import join
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.stage import Context
from diht_k8s.stages.filter import minhash_forest
from diht_k8s.stages.filter.kept_pairs import GlobalRule
from diht_k8s.stages.filter.scores import Scores

WORDS: Final = 4
"""64-bit words of a fingerprint."""
RECORD_WORDS: Final = 1 + WORDS
RECORD_BYTES: Final = 8 * RECORD_WORDS
SHARDS_PER_CHUNK: Final = 128
PARTITIONS: Final = 1024
"""Of each table."""
BLOCK_IMAGES: Final = 1 << 19
"""Images that are sorted at once."""
UNIT_RECORDS: Final = 1 << 20
"""Records of a unit, unless one partition alone has more."""
FOLD_RECORDS: Final = 1 << 20
"""Records after which equal images of a partition are folded."""
READS: Final = 16
"""Ranges that are fetched at the same time."""

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_SHARD_BITS: Final = np.uint64(32)


@dataclass(frozen=True)
class Chunk:
    """The records of some shards: their images, and their number in each partition."""

    number: int
    images: Sequence[int]
    """kept images of each of its shards."""
    counts_BTP: np.ndarray
    """records of each partition, for each block and table in the order of the file, [blocks, tables, PARTITIONS]."""

    @cached_property
    def first_records(self) -> np.ndarray:
        """The first record of each partition in the file."""
        ends = np.cumsum(self.counts_BTP.ravel()).reshape(self.counts_BTP.shape)
        return ends - self.counts_BTP


class RepeatSearch:
    """One worker's part of the search."""

    def __init__(
        self, context: Context, kind: Literal["Exact", "Near"], shards: Sequence[Shard], claims: Claims
    ) -> None:
        """Prepare.

        Args:
            context: the stage's context.
            kind: which images repeat each other.
            shards: all shards in order, all of them filtered.
            claims: record which worker works on what.
        """
        self._context, self._storage, self._kind, self._claims = context, context.storage, kind, claims
        self._shards, self._found = shards, False
        self._tables = minhash_forest.ROOTS if kind == "Near" else 1
        self._result = context.layout.repeats
        self._folder = self._result.rpartition("/")[0]
        self._header = {"schema_version": SCHEMA_VERSION, "config_sha256": context.config_sha256}

    def run(self) -> tuple[bool, int]:
        """Work on what no other worker has claimed.

        Returns:
            Whether there was anything, and on how many steps others still work; (False, 0) once all is found.
        """
        if self._found or self._storage.exists(self._result):
            self._found = True
            return False, 0
        worked, waiting = self._share("spread", -(-len(self._shards) // SHARDS_PER_CHUNK), self._spread)
        if waiting:
            return worked, waiting
        searched, waiting = self._share("lists", len(self._units), self._search)
        if waiting:
            return worked or searched, waiting
        if not self._claims.take("repeats", counts_deaths=False):
            return worked or searched, 1
        self._join_lists()
        return True, 0

    def places(self, shard: int) -> np.ndarray:
        """Places among a shard's kept pairs of the images that repeat an earlier one, ascending."""
        return np.flatnonzero(np.unpackbits(np.frombuffer(self._repeats[shard].as_py(), np.uint8)))

    @cached_property
    def _repeats(self) -> pa.ChunkedArray:
        return read_table(self._storage, self._result)[0]["repeats"]

    def _share(self, name: str, count: int, work: Callable[[int], None]) -> tuple[bool, int]:
        """Do the steps of a pass that are neither done nor another's; returns as `run`."""
        own, workers = self._context.worker, self._context.workers
        done, worked, waiting = set(self._storage.names(join(self._folder, name))), False, 0
        for number in sorted(range(count), key=lambda number: (number % workers != own, number)):
            if f"{number:06}.parquet" in done:
                continue
            self._context.stop.raise_if_requested("finished shards are kept")
            if self._claims.take(f"repeats {name} {number:06}", counts_deaths=False):
                work(number)
                worked = True
            else:
                waiting += 1
        return worked, waiting

    def _uri(self, folder: str, number: int, suffix: str = "parquet") -> str:
        return join(self._folder, folder, f"{number:06}.{suffix}")

    def _spread(self, number: int) -> None:
        images, counts = list[int](), list[list[int]]()
        with self._storage.writer(self._uri("spread", number, "bin")) as file:
            for numbers_N, bits_N4 in self._blocks(number, images):
                if self._kind == "Near":
                    bits_N4 = minhash_forest.permuted(bits_N4)
                for partitions_N in self._partitions_of(bits_N4):
                    kept = np.flatnonzero(partitions_N < PARTITIONS)
                    order = kept[np.argsort(partitions_N[kept], kind="stable")]
                    file.write(np.column_stack([numbers_N[order], bits_N4[order]]).tobytes())
                    counts.append(np.bincount(partitions_N[kept], minlength=PARTITIONS).tolist())
                    self._pause()
        table = pa.table({"counts": pa.array(counts, pa.list_(pa.int64()))})
        write_table(self._storage, self._uri("spread", number), table, {**self._header, "images": images})

    def _blocks(self, chunk: int, images: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and fingerprints of a chunk's images, in order; notes in `images` how many each shard has."""
        begin, held = chunk * SHARDS_PER_CHUNK, list[tuple[np.ndarray, np.ndarray]]()
        for number in range(begin, min(begin + SHARDS_PER_CHUNK, len(self._shards))):
            self._pause()
            bits_N4 = self._fingerprints(self._shards[number])
            images.append(len(bits_N4))
            numbers_N = (np.uint64(number) << _SHARD_BITS) | np.arange(len(bits_N4), dtype=np.uint64)
            for start in range(0, len(bits_N4), BLOCK_IMAGES):
                held.append((numbers_N[start : start + BLOCK_IMAGES], bits_N4[start : start + BLOCK_IMAGES]))
                if sum(len(numbers) for numbers, _ in held) >= BLOCK_IMAGES:
                    yield _joined(held)
                    held = []
        if held:
            yield _joined(held)

    def _fingerprints(self, shard: Shard) -> np.ndarray:
        """Fingerprints of a shard's kept images, [N, 4]."""
        uri = self._context.layout.fingerprints(shard.name)
        table, header = read_table(self._storage, uri)
        if header.get("config_sha256") != self._context.config_sha256:
            raise DataError(f"{uri} belongs to another configuration: remove it and run the stage filter again")
        column = table["bits"].combine_chunks()
        data = column.buffers()[1] if len(column) else b""
        return np.frombuffer(data, np.uint64, WORDS * len(column)).reshape(-1, WORDS)

    def _partitions_of(self, bits_N4: np.ndarray) -> Iterator[np.ndarray]:
        """The partition of each image for each table, [N]; PARTITIONS for images that repeat nothing.

        Args:
            bits_N4: digests (`Exact`) or permuted fingerprints (`Near`).
        """
        if self._kind == "Exact":
            yield _partition(bits_N4[:, 0])
            return
        lanes_NL, idle_N = minhash_forest.lanes(bits_N4), ~minhash_forest.has_steps(bits_N4)
        for table in range(self._tables):
            partitions_N = _partition(minhash_forest.root(lanes_NL, table))
            partitions_N[idle_N] = PARTITIONS
            yield partitions_N

    @cached_property
    def _chunks(self) -> list[Chunk]:
        found = []
        for number in range(-(-len(self._shards) // SHARDS_PER_CHUNK)):
            self._pause()
            table, header = read_table(self._storage, self._uri("spread", number))
            counts = np.array(table["counts"].to_pylist(), np.int64).reshape(-1, self._tables, PARTITIONS)
            found.append(Chunk(number, header["images"], counts))
        return found

    @cached_property
    def _units(self) -> list[tuple[int, int]]:
        """First partition of each unit and the one after its last, counted over all tables."""
        sizes = sum((chunk.counts_BTP.sum(axis=0).ravel() for chunk in self._chunks), np.zeros(1, np.int64))
        units, begin, held = list[tuple[int, int]](), 0, 0
        for partition, size in enumerate(sizes.tolist()):
            if held and held + size > UNIT_RECORDS:
                units.append((begin, partition))
                begin, held = partition, 0
            held += size
        return [*units, (begin, len(sizes))]

    def _search(self, number: int) -> None:
        begin, end = self._units[number]
        found = [np.empty(0, np.uint64)]
        for table in range(begin // PARTITIONS, -(-end // PARTITIONS)):
            first = table * PARTITIONS
            records, repeats = self._distinct(table, max(begin - first, 0), end - first)
            found.append(repeats)
            if self._kind == "Near" and len(records):
                alike_R = minhash_forest.earlier_alike(records[:, 1:], table, self._pause)
                found.append(records[alike_R, 0])
        numbers = np.unique(np.concatenate(found))
        write_table(self._storage, self._uri("lists", number), pa.table({"number": numbers}), self._header)

    def _distinct(self, table: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The records of some partitions of a table, [R, 5], without those that equal an earlier one, and their
        numbers.
        """
        held, repeats = np.empty((0, RECORD_WORDS), np.uint64), [np.empty(0, np.uint64)]
        waiting, count = list[np.ndarray](), 0
        for part in self._parts(table, begin, end):
            waiting.append(part)
            count += len(part)
            if count >= max(FOLD_RECORDS, len(held)):
                held, gone = _folded([held, *waiting])
                repeats.append(gone)
                waiting, count = [], 0
        held, gone = _folded([held, *waiting])
        return held, np.concatenate([*repeats, gone])

    def _parts(self, table: int, begin: int, end: int) -> Iterator[np.ndarray]:
        """The records of some partitions of a table from all chunks, in the order of the pool."""
        ranges = list[tuple[str, int, int]]()
        for chunk in self._chunks:
            uri = self._uri("spread", chunk.number, "bin")
            for counts_P, firsts_P in zip(chunk.counts_BTP[:, table], chunk.first_records[:, table], strict=True):
                size = int(counts_P[begin:end].sum())
                if size:
                    ranges.append((uri, int(firsts_P[begin]) * RECORD_BYTES, size * RECORD_BYTES))

        def read(wanted: tuple[str, int, int]) -> np.ndarray:
            uri, start, size = wanted
            data = self._storage.read_range(uri, start, start + size)
            if len(data) != size:
                raise DataError(f"{uri} is shorter than its index says: remove it and run the stage filter again")
            return np.frombuffer(data, np.uint64).reshape(-1, RECORD_WORDS)

        with ThreadPoolExecutor(READS) as threads:
            for start in range(0, len(ranges), READS):  # at most READS ranges are held beside what is kept
                yield from threads.map(read, ranges[start : start + READS])
                self._pause()

    def _join_lists(self) -> None:
        images = [count for chunk in self._chunks for count in chunk.images]
        starts = np.concatenate([[0], np.cumsum([-(-count // 8) for count in images])]).astype(np.uint64)
        bits = np.zeros(int(starts[-1]), np.uint8)
        for unit in range(len(self._units)):
            self._pause()
            numbers = read_table(self._storage, self._uri("lists", unit))[0]["number"].to_numpy()
            places = numbers & np.uint64((1 << 32) - 1)
            at = starts[(numbers >> _SHARD_BITS).astype(np.int64)] + (places >> np.uint64(3))
            np.bitwise_or.at(bits, at.astype(np.int64), np.uint8(128) >> (places & np.uint64(7)).astype(np.uint8))
        rows = [bits[begin:end].tobytes() for begin, end in pairwise(starts.tolist())]
        write_table(self._storage, self._result, pa.table({"repeats": pa.array(rows, pa.binary())}), self._header)
        for folder in ("spread", "lists"):
            self._storage.remove_named(join(self._folder, folder), "*.parquet", "*.bin")

    def _pause(self) -> None:
        """Between two pieces of work: stop if asked to, and keep the claim."""
        self._context.stop.raise_if_requested("finished shards are kept")
        self._claims.keep()


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([numbers for numbers, _ in parts]), np.concatenate([bits for _, bits in parts])


def _partition(keys_N: np.ndarray) -> np.ndarray:
    """Equal keys get equal partitions, [N], uint16, which NumPy sorts by radix."""
    return (((keys_N * _MIX) >> np.uint64(40)) % np.uint64(PARTITIONS)).astype(np.uint16)


def _folded(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Records without those whose fingerprint equals an earlier one's, and the numbers of these."""
    records = np.concatenate(parts)
    equal_R = minhash_forest.earlier_equals(records[:, 1:])
    return records[~equal_R], records[equal_R, 0]


def write_fingerprints(context: Context, shard: Shard, bits: Sequence[bytes]) -> None:
    """Write the fingerprint of each kept pair of a shard."""
    table = pa.table({"bits": pa.array(bits, pa.binary(8 * WORDS))})
    header = {"schema_version": SCHEMA_VERSION, "config_sha256": context.config_sha256}
    write_table(context.storage, context.layout.fingerprints(shard.name), table, header)


class Deduplication(GlobalRule):
    """Drops repeats."""

    mark, claim, reason = "deduplicated", "duplicates", "duplicate"

    def search(self) -> tuple[bool, int]:
        """Find the repeats with the other workers."""
        return self._repeats.run()

    def drops(self, number: int, scores: Scores) -> set[int]:
        """The kept pairs that repeat an earlier image."""
        kept = [place for place, row in enumerate(scores.rows()) if row.kept]
        return {kept[place] for place in self._repeats.places(number).tolist()}

    @cached_property
    def _repeats(self) -> RepeatSearch:
        assert self.rules.duplicates is not None, "the stage checks that the run drops repeats"
        return RepeatSearch(self.context, self.rules.duplicates, self.shards, self.claims)
