"""Where the samples of the training's shards begin: from the run's index, or of a look at the shards that it does not know.

The filter makes an index on its way, and `diht index` makes one of other shards. What neither has is read once before the
first step, by all ranks together, and indexed beside the output, so that a second start reads nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.runtime.bad_shards import Damage
from diht_k8s.recipe.runtime.inputs import index_of_inputs
from diht_k8s.recipe.shards.index import ShardIndex, index_of
from diht_k8s.recipe.shards.index_files import IndexBook, IndexRow, write_part, write_rows
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.collectives import error_of_rank_0, gather_objects

RANKS = 100_000
"""More than any gang has: parts are numbered by attempt and rank, so that no attempt writes over another one's."""


@dataclass(frozen=True)
class IndexedShards:
    """The shards of a training, with their counts, and where their samples begin."""

    shards: list[Shard]
    books: Sequence[IndexBook]
    rows: Sequence[IndexRow]
    """of the shards, in their order."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard, by at most one request."""
        return next((found for book in self.books if (found := book.of(name)) is not None), None)

    @property
    def sequential(self) -> frozenset[int]:
        """Numbers of the shards of which no ranges can be read."""
        return frozenset(number for number, row in enumerate(self.rows) if row.begin == row.end)

    @property
    def damaged(self) -> dict[str, Damage]:
        """Damaged shards by URI; those of a keep list were the filter's to count."""
        found = {}
        for shard, row in zip(self.shards, self.rows, strict=True):
            if row.damage is not None and shard.keep_list is None:
                found[shard.uri] = Damage(row.damage.reason, row.damage.offset, row.samples)
        return found


def indexed(
    run: DihtRun,
    storage: Storage,
    shards: Sequence[Shard],
    *,
    config_sha256: str,
    attempt: int,
    rank: int,
    world: int,
    check: Callable[[], object] | None = None,
) -> IndexedShards:
    """Shards with their counts and where their samples begin (a collective).

    Args:
        run: the run document.
        storage: reads the shards and writes what is missing of the index.
        shards: in the order's numbering, with the counts that are known.
        config_sha256: of the stage; an index that was made under another one may be of other shards.
        attempt: number of this attempt.
        rank: of this process.
        world: number of processes.
        check: called while a shard is read; it may raise to stop.

    Raises:
        DataError: a shard that the filter has counted cannot be found whole.
    """
    folder = join(Layout(run.spec.data.output).stage(Stage.TRAIN), "index")
    books = [index_of_inputs(run.spec, storage), _own_book(storage, folder, config_sha256)]
    missing = [shard for shard in shards if _row_of(shard, books) is None]
    if missing:
        if rank == 0:
            logging.warning(
                "%d of %d shards have no index (or an old one): each is read once before the first step; "
                "`diht index` does that beforehand, by workers without GPUs", len(missing), len(shards)
            )  # fmt: skip
        mine = [(shard.name, index_of(storage, shard.uri, check)) for shard in missing[rank::world]]
        rows = write_part(storage, folder, attempt * RANKS + rank, mine)
        rows = [row for part in gather_objects(rows) for row in part]
        _write_book(storage, folder, books[1], rows, config_sha256, lead=rank == 0)
        books[1] = _own_book(storage, folder, config_sha256)
    known = [_row_of(shard, books) for shard in shards]
    lost = next((shard for shard, row in zip(shards, known, strict=True) if row is None), None)
    if lost is not None:
        raise DataError(f"{lost.uri} was replaced while it was indexed: start again")
    found = [row for row in known if row is not None]
    counted = [
        replace(shard, samples=row.samples if shard.samples is None else shard.samples)
        for shard, row in zip(shards, found, strict=True)
    ]
    return IndexedShards(counted, [book for book in books if book is not None], found)


def _row_of(shard: Shard, books: Sequence[IndexBook | None]) -> IndexRow | None:
    """What the first book that knows this version of a shard says of it."""
    for book in books:
        row = None if book is None else book.rows.get(shard.name)
        if row is not None and shard.identity in (None, row.identity):
            return row
    return None


def _own_book(storage: Storage, folder: str, config_sha256: str) -> IndexBook | None:
    """What an attempt before has indexed, if it was under the same configuration."""
    book = IndexBook.open(storage, folder)
    return None if book is None or book.header.get("config_sha256") != config_sha256 else book


def _write_book(
    storage: Storage, folder: str, book: IndexBook | None, rows: Sequence[IndexRow], config_sha256: str, *, lead: bool
) -> None:
    """Write a book of new rows and of those that were there (a collective; rank 0 leads)."""
    new = {row.name for row in rows}

    def write() -> None:
        old = [] if book is None else [row for name, row in book.rows.items() if name not in new]
        write_rows(storage, folder, [*old, *rows], {"config_sha256": config_sha256})

    error = error_of_rank_0(write if lead else None)
    if error is not None:
        raise error
