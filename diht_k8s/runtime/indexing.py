"""`diht index`: the index of the shards that a run's training reads, made by workers that share them.

In: the run's own shards, what its filter kept, or its raw input. Out: `OUTPUT/index/DIGEST`, the digest one of the shards'
names and versions. Shards that the filter or another index of the output knows in this version are not read again; a
damaged shard is indexed up to its damage.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from diht_k8s.api.layout import join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.shard_index import IndexRow, ShardIndex, StoredIndex, index_of, write_part, write_rows
from diht_k8s.data.shards.sources import Shard, ShardGroup, current_shards, current_sources, groups_of, training_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.inputs import filter_index, index_folder, kept_by, other_indexes
from diht_k8s.runtime.owner import owner_of
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
