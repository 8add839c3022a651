"""The index of the shards that a run's training reads: made beforehand by `diht index`, or completed by the training's
ranks.

`diht index` (`make_index`) takes the run's own shards, what its filter kept, or its raw input, and writes
`OUTPUT/index/DIGEST`, the digest one of the shards' names and versions; its workers share the shards. Shards that the
filter or another index of the output knows in this version are not read again; a damaged shard is indexed up to its
damage.

A training (`indexed`) takes what there is. Shards without an index that are counted are read in sequence. Those that
nothing has counted are read once before the first step, by all ranks together, and indexed as `diht index` would have
done it, so that a second start reads nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.lease import owner_of
from diht_k8s.data.shards.samples import img2dataset_count
from diht_k8s.data.shards.shard_index import IndexRow, ShardIndex, StoredIndex, index_of, write_part, write_rows
from diht_k8s.data.shards.sources import Shard, ShardGroup, current_shards, current_sources, groups_of, training_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.commit import Count, find_committed, require_equal
from diht_k8s.runtime.inputs import filter_index, index_folder, kept_by, other_indexes
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag

READERS: Final = 8
"""Shards of a group that are read at the same time."""
END: Final = "end of the index"
WAIT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class IndexResult:
    """Counts of a complete index."""

    shards: int
    samples: int
    read: int
    """shards that this worker has read."""
    damaged: int


def make_index(
    run: DihtRun,
    storage: Storage,
    *,
    worker: int = 0,
    workers: int = 1,
    stop: StopFlag | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> IndexResult:
    """Index the shards of a run with the other workers, until all are.

    Args:
        run: the run.
        storage: of its shards and output.
        worker: index of this worker.
        workers: number of workers.
        stop: checked while shards are read.
        sleep: waits for seconds.

    Raises:
        StopRequested: after a signal; start again to resume.
        UserError: the run names no shards.
    """
    storage.first = worker == 0
    return _Indexing(run, storage, worker, workers, stop or StopFlag()).run(sleep)


def shards_of(run: DihtRun, storage: Storage) -> list[Shard]:
    """The shards that the training reads, each with its identity, by listings."""
    spec = run.spec
    if spec.train is not None and spec.train.shards:
        (own,) = current_sources(storage, spec.data.output, [spec.train.shards])
        return training_shards(own)
    layout = run_layout(run, storage)
    committed = find_committed(storage, layout, Stage.FILTER)
    if committed is None:
        return current_shards(spec, storage)
    identities = storage.identities(layout.kept("").rpartition("/")[0])
    return [
        shard if shard.keep_list else replace(shard, identity=identities.get(f"{shard.name}.tar"))
        for shard in kept_by(committed, spec, storage, layout)
    ]


class _Indexing:
    def __init__(self, run: DihtRun, storage: Storage, worker: int, workers: int, stop: StopFlag) -> None:
        self._storage, self._stop, self._worker, self._workers = storage, stop, worker, workers
        self._layout = run_layout(run, storage)
        self._shards = shards_of(run, storage)
        self._folder = index_folder(run.spec, storage, self._layout, self._shards)
        self._by_filter = self._whole(filter_index(run.spec, storage, self._layout))
        self._groups = [] if self._by_filter else groups_of(self._shards)
        self._read = 0
        self._claims = Claims(storage, self._folder, owner_of(os.environ), worker)

    def run(self, sleep: Callable[[float], object]) -> IndexResult:
        """Index what is missing."""
        if self._by_filter:
            return self._outcome(self._by_filter)
        if rows := self._whole(StoredIndex.open(self._storage, self._folder)):
            return self._outcome(rows)
        self._take(self._groups[self._worker :: self._workers], self._there())
        while True:
            there = self._there()  # before the table is looked for: whoever has written it removes the rows
            if rows := self._whole(StoredIndex.open(self._storage, self._folder)):
                return self._outcome(rows)
            missing = [group for group in reversed(self._groups) if group.number not in there]
            worked = self._take(missing, there)
            if not missing and self._claims.take(END, counts_deaths=False):
                rows = self._whole(
                    StoredIndex.open(self._storage, self._folder)
                )  # whoever had the claim may have ended
                return self._finish() if not rows else self._outcome(rows)
            if not worked:
                self._stop.raise_if_requested("start again to resume")
                sleep(WAIT_SECONDS)

    def _whole(self, index: StoredIndex | None) -> list[IndexRow]:
        """The rows of an index; [] if it is not one of all shards as they are now."""
        rows = [row for shard in self._shards if (row := _row(index, shard)) is not None]
        return rows if len(rows) == len(self._shards) else []

    @cached_property
    def _others(self) -> list[StoredIndex]:
        return other_indexes(self._storage, self._layout, "")  # this one, too: a training may have begun it

    def _take(self, groups: Sequence[ShardGroup], there: Collection[int]) -> bool:
        worked = False
        for group in groups:
            self._stop.raise_if_requested("start again to resume")
            if group.number not in there and self._claims.take(group.name):
                self._index(group)
                worked = True
        return worked

    def _index(self, group: ShardGroup) -> None:
        def work(shard: Shard) -> tuple[str, ShardIndex]:
            return shard.name, index_of(self._storage, shard.uri, self._check, shard.identity)

        known = {shard.name: index for shard in group.shards if (index := self._known(shard)) is not None}
        unknown = [shard for shard in group.shards if shard.name not in known]
        with ThreadPoolExecutor(READERS, "index") as pool:
            read = dict(pool.map(work, unknown))
        self._read += len(read)
        found = [(shard.name, known.get(shard.name) or read[shard.name]) for shard in group.shards]
        rows = write_part(self._storage, self._folder, group.number, found)
        self._storage.write_bytes(self._rows_uri(group), json.dumps(rows).encode())

    def _known(self, shard: Shard) -> ShardIndex | None:
        return next((index.find(shard.name) for index in self._others if _row(index, shard) is not None), None)

    def _check(self) -> None:
        self._stop.raise_if_requested("start again to resume")
        self._claims.keep()

    def _there(self) -> set[int]:
        """Numbers of the groups whose rows are written."""
        names = set(self._storage.names(join(self._folder, "rows")))
        return {group.number for group in self._groups if self._rows_uri(group).rpartition("/")[2] in names}

    def _rows_uri(self, group: ShardGroup) -> str:
        return join(self._folder, "rows", f"{group.number:05d}.json")

    def _finish(self) -> IndexResult:
        """Write the table of all groups' rows."""
        with ThreadPoolExecutor(READERS, "rows") as pool:
            contents = pool.map(self._storage.read_bytes, map(self._rows_uri, self._groups))
            rows = [IndexRow(*row) for content in contents for row in json.loads(content)]
        write_rows(self._storage, self._folder, rows, {})
        for folder in ("rows", "claims"):
            self._storage.remove_named(join(self._folder, folder), "*.json")
        return self._outcome(rows)

    def _outcome(self, found: Iterable[IndexRow]) -> IndexResult:
        rows = list(found)
        samples, damaged = sum(row.samples for row in rows), sum(row.reason is not None for row in rows)
        return IndexResult(len(rows), samples, self._read, damaged)


def _row(index: StoredIndex | None, shard: Shard) -> IndexRow | None:
    """The row of this version of a shard in an index."""
    row = None if index is None else index.rows.get(shard.name)
    return row if row is not None and row.identity == shard.identity else None


FIRST_PART: Final = 1 << 32
"""Parts of trainings have numbers by chance from here on, so that none writes over another's or over those of `diht
index`."""

OWN_BOOKS: Final = 2
"""Indexes of exactly these shards: the filter's, and that of their digest."""


class Ranks(NamedTuple):
    """The processes of a training, which index their shares of the shards, and how they meet."""

    rank: int
    world: int
    gather: Callable[[Any], list[Any]]
    """each rank's object, in rank order (a collective)."""
    lead: Callable[[Callable[[], object] | None], DihtError | None]
    """rank 0 calls, and every rank gets the error that it raised (a collective)."""


@dataclass(frozen=True)
class IndexedShards:
    """The shards of a training, with their counts, and where their samples begin."""

    shards: list[Shard]
    books: Sequence[StoredIndex]
    rows: Sequence[IndexRow | None]
    """of the shards, in their order; None of those that are counted only."""
    sequential: frozenset[int]
    """numbers of the shards that are read in sequence."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard, by at most one request."""
        row = self._row_by_name.get(name)
        return next((book.find(name) for book in self.books if row is not None and book.rows.get(name) == row), None)

    @cached_property
    def _row_by_name(self) -> dict[str, IndexRow]:
        return {row.name: row for row in self.rows if row is not None}

    @property
    def damaged(self) -> dict[str, Damage]:
        """Damaged shards by URI; those of a keep list were the filter's to count."""
        found = {}
        for shard, row in zip(self.shards, self.rows, strict=True):
            if row is not None and row.damage is not None and shard.keep_list is None:
                found[shard.uri] = Damage(row.damage.reason, row.damage.offset, row.samples)
        return found


def indexed(
    run: DihtRun,
    storage: Storage,
    layout: Layout,
    shards: Sequence[Shard],
    ranks: Ranks,
    *,
    in_sequence: frozenset[int] | None = None,
    check: Callable[[], object] | None = None,
) -> IndexedShards:
    """Shards with their counts and where their samples begin (a collective).

    Args:
        run: the run document.
        storage: reads the shards and writes what is missing of the index.
        layout: with the folder of the filter.
        shards: in the order's numbering, with the counts that are known.
        ranks: of the training.
        in_sequence: numbers of the shards that the order of a checkpoint reads in sequence; None for a new training.
        check: called while a shard is read; it may raise to stop.

    Raises:
        DataError: a checkpoint's order asks for ranges of a shard that has none, or an index has another count than the
            filter.
    """
    folder = index_folder(run.spec, storage, layout, shards)
    books = [filter_index(run.spec, storage, layout), StoredIndex.open(storage, folder)]
    rows = [_row_of(shard, books) for shard in shards]
    if not all(rows):
        books += other_indexes(storage, layout, folder)
        rows = [_row_of(shard, books) for shard in shards]
    ranges = frozenset() if in_sequence is None else frozenset(range(len(shards))) - in_sequence
    unknown = [
        number
        for number, row in enumerate(rows)
        if row is None and (shards[number].samples is None or number in ranges)
    ]
    counts = dict[int, int]()
    if unknown:
        made, counts = _count_or_index(storage, folder, shards, unknown, ranges, ranks, check)
        if made:
            _write_book(storage, folder, books[1], made, ranks)
            books[1] = StoredIndex.open(storage, folder)
        rows = [_row_of(shard, books) for shard in shards]
    counted = list(_counted(shards, rows, counts))
    sequential = frozenset(number for number, row in enumerate(rows) if row is None or row.begin == row.end)
    if ranks.rank == 0:
        _say_what_it_costs(rows)
    if in_sequence is not None and sequential & ranges:
        lost = shards[min(sequential & ranges)]
        raise DataError(
            f"{lost.uri} cannot be read by ranges any more, as the checkpoint's order does: put the old shard back"
        )
    known = [book for book in books if book is not None]
    return IndexedShards(counted, known, rows, sequential if in_sequence is None else in_sequence)


def _counted(shards: Sequence[Shard], rows: Sequence[IndexRow | None], counts: Mapping[int, int]) -> Iterator[Shard]:
    for number, (shard, row) in enumerate(zip(shards, rows, strict=True)):
        if shard.samples is None and row is None and number not in counts:
            raise DataError(f"{shard.uri} was replaced while it was indexed: start again")
        samples = row.samples if row is not None else counts.get(number)
        if row is not None and row.damage is None and shard.samples is not None and shard.keep_list is None:
            kept, there = Count(shard.samples, "pairs were kept by the filter"), Count(row.samples, "are in its index")
            require_equal(shard.uri, "run the stage filter again", kept, there)
        yield replace(shard, samples=samples) if shard.samples is None else shard


def _say_what_it_costs(rows: Sequence[IndexRow | None]) -> None:
    missing = sum(row is None for row in rows)
    if missing:
        _say(
            f"{missing} of {len(rows)} shards have no index and are read in sequence: a lane begins inside a shard, "
            "and reads "
            "what comes before again in each epoch and after each restart; `diht index` before the training "
            "removes that"
        )


def _say(sentence: str) -> None:
    print(f"train: {sentence}", flush=True)


def _row_of(shard: Shard, books: Sequence[StoredIndex | None]) -> IndexRow | None:
    """The row of the first index that knows this version of a shard.

    Of kept shards, which have no version here, only the filter's index and this training's own know the right ones.
    """
    for book in books[:OWN_BOOKS] if shard.identity is None else books:
        row = None if book is None else book.rows.get(shard.name)
        if row is not None and shard.identity in (None, row.identity):
            return row
    return None


def _count_or_index(
    storage: Storage,
    folder: str,
    shards: Sequence[Shard],
    unknown: Sequence[int],
    ranges: frozenset[int],
    ranks: Ranks,
    check: Callable[[], object] | None,
) -> tuple[list[IndexRow], dict[int, int]]:
    """Count shards by what img2dataset left beside them, or read and index them (a collective); both for all ranks."""
    mine, counts, beside = list[tuple[str, ShardIndex]](), dict[int, int](), True
    for number in unknown[ranks.rank :: ranks.world]:
        shard = shards[number]
        count = img2dataset_count(storage, shard.uri) if beside and number not in ranges else None
        beside = beside and count is not None  # beside the first of them it shows whether there are counts
        if count is not None:
            counts[number] = count
            continue
        if not mine and ranks.rank == 0:
            _say(
                f"up to {len(unknown)} of {len(shards)} shards have no index and are read once before the first step: "
                "`diht index` does that beforehand, by workers without GPUs"
            )
        mine.append((shard.name, index_of(storage, shard.uri, check)))
    rows = write_part(storage, folder, FIRST_PART + secrets.randbits(62), mine)
    gathered = ranks.gather((rows, counts))
    made = [row for theirs, _ in gathered for row in theirs]
    return made, {number: count for _, theirs in gathered for number, count in theirs.items()}


def _write_book(
    storage: Storage,
    folder: str,
    book: StoredIndex | None,
    rows: Sequence[IndexRow],
    ranks: Ranks,
) -> None:
    """Write a book of new rows and of those that were there (a collective; one rank leads)."""
    new = {row.name for row in rows}

    def write() -> None:
        old = [] if book is None else [row for name, row in book.rows.items() if name not in new]
        write_rows(storage, folder, [*old, *rows], {})

    error = ranks.lead(write if ranks.rank == 0 else None)
    if error is not None:
        raise error
