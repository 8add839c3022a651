"""Index of the training's shards: the run's, completed by reading the shards that it does not know.

The filter makes an index on its way, and `diht index` makes one of other shards. Shards that neither has indexed but that are
counted are read in sequence. Those that nothing has counted are read once before the first step, by all ranks together, and
indexed as `diht index` would have done it, so that a second start reads nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.samples import img2dataset_count
from diht_k8s.data.shards.shard_index import IndexRow, ShardIndex, StoredIndex, index_of, write_part, write_rows
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.inputs import filter_index, index_folder, other_indexes
from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.train.collectives import broadcast_error, gather_objects

FIRST_PART: Final = 1 << 32
"""Parts of trainings have numbers by chance from here on, so that none writes over another's or over those of `diht index`."""


OWN_BOOKS: Final = 2
"""Indexes of exactly these shards: the filter's, and that of their digest."""


class RankAttempt(NamedTuple):
    """An attempt's rank, which indexes its share of the shards."""

    number: int
    rank: int
    world: int


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
    attempt: RankAttempt,
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
        attempt: this one.
        in_sequence: numbers of the shards that the order of a checkpoint reads in sequence; None for a new training.
        check: called while a shard is read; it may raise to stop.

    Raises:
        DataError: a checkpoint's order asks for ranges of a shard that has none, or an index has another count than the filter.
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
        made, counts = _count_or_index(storage, folder, shards, unknown, ranges, attempt, check)
        if made:
            _write_book(storage, folder, books[1], made, lead=attempt.rank == 0)
            books[1] = StoredIndex.open(storage, folder)
        rows = [_row_of(shard, books) for shard in shards]
    counted = list(_counted(shards, rows, counts))
    sequential = frozenset(number for number, row in enumerate(rows) if row is None or row.begin == row.end)
    if attempt.rank == 0:
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
            f"{missing} of {len(rows)} shards have no index and are read in sequence: a lane begins inside a shard, and reads "
            "what comes before again in each epoch and after each restart; `diht index` before the training removes that"
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
    attempt: RankAttempt,
    check: Callable[[], object] | None,
) -> tuple[list[IndexRow], dict[int, int]]:
    """Count shards by what img2dataset left beside them, or read and index them (a collective); both for all ranks."""
    mine, counts, beside = list[tuple[str, ShardIndex]](), dict[int, int](), True
    for number in unknown[attempt.rank :: attempt.world]:
        shard = shards[number]
        count = img2dataset_count(storage, shard.uri) if beside and number not in ranges else None
        beside = beside and count is not None  # beside the first of them it shows whether there are counts
        if count is not None:
            counts[number] = count
            continue
        if not mine and attempt.rank == 0:
            _say(
                f"up to {len(unknown)} of {len(shards)} shards have no index and are read once before the first step: "
                "`diht index` does that beforehand, by workers without GPUs"
            )
        mine.append((shard.name, index_of(storage, shard.uri, check)))
    rows = write_part(storage, folder, FIRST_PART + secrets.randbits(62), mine)
    gathered = gather_objects((rows, counts))
    made = [row for theirs, _ in gathered for row in theirs]
    return made, {number: count for _, theirs in gathered for number, count in theirs.items()}


def _write_book(
    storage: Storage,
    folder: str,
    book: StoredIndex | None,
    rows: Sequence[IndexRow],
    *,
    lead: bool,
) -> None:
    """Write a book of new rows and of those that were there (a collective; one rank leads)."""
    new = {row.name for row in rows}

    def write() -> None:
        old = [] if book is None else [row for name, row in book.rows.items() if name not in new]
        write_rows(storage, folder, [*old, *rows], {})

    error = broadcast_error(write if lead else None)
    if error is not None:
        raise error
