"""The index of a run's shards: the workers of `diht index` share it, and a training reads what nothing has counted."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards import sources
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import StoredIndex, index_of, read_range, table_uri, write_part, write_rows
from diht_k8s.data.shards.sources import input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime import claims, indexing
from diht_k8s.runtime.indexing import IndexedShards, Ranks, indexed, make_index
from diht_k8s.runtime.inputs import index_folder
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.setup import train_shards
from tests.unit.api.documents import TRAIN, run_over


class Noting(Storage):
    """Notes the shards that are read whole."""

    opened: ClassVar[list[str]] = []

    def open(self, uri: str, *, seekable: bool = False):
        if ".tar" in uri:
            self.opened.append(uri.rpartition("/")[2])
        return super().open(uri, seekable=seekable)


def write_shard(folder: Path, number: int, pairs: int = 4) -> None:
    named = [(f"{number}-{pair}", {"jpg": bytes([number]) * 700, "txt": b"a dog"}) for pair in range(pairs)]
    write_samples(Storage(), f"{folder}/{number}.tar", named)


SIZES = [3, 5, 2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DihtRun:
    monkeypatch.setattr(sources, "MAX_GROUPS", 4)
    for number in range(9):
        write_shard(tmp_path, number, number + 1)
    return indexed_run(tmp_path)


@pytest.fixture
def training(tmp_path: Path) -> DihtRun:
    for number, size in enumerate(SIZES):
        write_shard(tmp_path, number, size)
    return indexed_run(tmp_path)


@pytest.fixture(autouse=True)
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noting, "opened", [])


def indexed_run(tmp_path: Path) -> DihtRun:
    return run_over(f"{tmp_path}/*.tar*", tmp_path / "out", train={**TRAIN, "batchSize": 2})


def folder_of(run: DihtRun) -> str:
    """As the ranks of a training find it."""
    storage, layout = Storage(), Layout(run.spec.data.output)
    return index_folder(run.spec, storage, layout, input_shards(run.spec, storage))


def assert_is_right(run: DihtRun) -> None:
    storage, book = Storage(), StoredIndex.open(Storage(), folder_of(run))
    assert book is not None
    for shard in input_shards(run.spec, storage):
        index, samples = book.find(shard.name, shard.identity), list(read_samples(storage, shard.uri))
        assert index is not None
        assert list(read_range(storage, shard.uri, index, 1, len(samples))) == samples[1:]


def test_one_worker_indexes_all_shards_and_leaves_the_index_alone(tmp_path: Path, run: DihtRun) -> None:
    done = make_index(run, Noting())
    assert (done.shards, done.samples, done.read, done.damaged) == (9, 45, 9, 0)
    assert_is_right(run)
    (folder,) = (tmp_path / "out" / "index").iterdir()
    assert sorted(os.listdir(folder)) == ["parts", "shards.table"]
    assert make_index(run, Noting()).read == 0
    assert sorted(Noting.opened) == [f"{number}.tar" for number in range(9)]


def test_workers_share_the_shards(run: DihtRun) -> None:
    found = dict[int, int]()

    def work(worker: int) -> None:
        found[worker] = make_index(run, Noting(), worker=worker, workers=2, sleep=lambda _: None).read

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found.values()) == 9
    assert sorted(Noting.opened) == [f"{number}.tar" for number in range(9)]
    assert_is_right(run)


def test_only_shards_that_changed_are_read_again(tmp_path: Path, run: DihtRun) -> None:
    make_index(run, Storage())
    write_shard(tmp_path, 3, 20)
    write_shard(tmp_path, 10, 2)
    done = make_index(run, Noting())
    assert (done.shards, done.samples, done.read) == (10, 45 - 4 + 20 + 2, 2)
    assert len(list((tmp_path / "out" / "index").iterdir())) == 2, "the index of the old shards stays as it is"
    assert sorted(Noting.opened) == ["10.tar", "3.tar"]
    assert_is_right(run)


def test_a_stop_keeps_what_is_indexed(run: DihtRun, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, write = StopFlag(), indexing.write_part

    def stop_then(*arguments: object) -> object:
        stop.requested = True
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "write_part", stop_then)
    with pytest.raises(StopRequested):
        make_index(run, Noting(), stop=stop)
    monkeypatch.setattr(indexing, "write_part", write)
    first = len(Noting.opened)
    assert make_index(run, Noting()).read == 9 - first
    assert len(Noting.opened) == 9
    assert_is_right(run)


def test_shards_of_a_dead_worker_are_taken_over(run: DihtRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
    dead = indexing._Indexing(run, Storage(), 1, 2, StopFlag())
    assert dead._claims.take(dead._groups[1].name)
    pauses: list[float] = []
    assert make_index(run, Noting(), worker=0, workers=2, sleep=pauses.append).read == 9
    assert_is_right(run)


def test_damaged_shards_are_indexed_up_to_their_damage(tmp_path: Path, run: DihtRun) -> None:
    shard = tmp_path / "8.tar"
    shard.write_bytes(shard.read_bytes()[:8000])
    done = make_index(run, Storage())
    assert (done.samples, done.damaged) == (36 + 3, 1)


@pytest.mark.parametrize(("shards", "groups"), [(1, [1]), (4, [1] * 4), (9, [3, 3, 3]), (800, [128] * 6 + [32])])
def test_groups_hold_all_shards_in_order(run: DihtRun, shards: int, groups: Sequence[int]) -> None:
    some = [input_shards(run.spec, Storage())[0]] * shards
    assert [len(group.shards) for group in sources.groups_of(some)] == groups


def test_runs_over_other_shards_have_indexes_beside_each_other(tmp_path: Path, run: DihtRun) -> None:
    fewer = run.model_copy(deep=True)
    fewer.spec.data.sources[0] = fewer.spec.data.sources[0].model_copy(update={"shards": [f"{tmp_path}/{{0..3}}.tar"]})
    make_index(fewer, Noting())
    before = {path: path.read_bytes() for path in Path(folder_of(fewer)).rglob("*") if path.is_file()}
    assert make_index(run, Noting()).read == 5, "the other index knows four of them"
    assert folder_of(run) != folder_of(fewer)
    assert {path: path.read_bytes() for path in Path(folder_of(fewer)).rglob("*") if path.is_file()} == before
    assert_is_right(run)
    assert_is_right(fewer)


def test_worker_that_comes_when_the_index_is_just_complete_leaves_it_alone(run: DihtRun) -> None:
    late = indexing._Indexing(run, Storage(), 1, 2, StopFlag())
    take, there = late._claims.take, late._there

    def complete_then_take(*arguments: Any, **options: Any) -> bool:
        make_index(run, Storage(), worker=0, workers=2)
        return take(*arguments, **options)

    late._take = lambda *_: False  # type: ignore[method-assign]
    late._there = lambda: {group.number for group in late._groups}  # type: ignore[method-assign]
    late._claims.take = complete_then_take  # type: ignore[method-assign]
    assert late.run(lambda _: None).shards == 9
    assert there() == set()
    assert_is_right(run)


def lead(call: Callable[[], object] | None) -> None:
    if call is not None:
        call()


ALONE = Ranks(0, 1, lambda mine: [mine], lead)


def look(
    training: DihtRun, ranks: Ranks = ALONE, in_sequence: frozenset[int] | None = None
) -> tuple[IndexedShards, list[str]]:
    storage, layout = Noting(), Layout(training.spec.data.output)
    storage.opened.clear()
    shards = train_shards(training, storage, layout)
    return indexed(training, storage, layout, shards, ranks, in_sequence=in_sequence), list(storage.opened)


def counts_beside(folder: Path) -> None:
    for number, size in enumerate(SIZES):
        (folder / f"{number}_stats.json").write_text(json.dumps({"successes": size}))


def write_index(training: DihtRun, numbers: range) -> None:
    storage, layout = Storage(), Layout(training.spec.data.output)
    known = train_shards(training, storage, layout)
    folder, shards = index_folder(training.spec, storage, layout, known), [known[number] for number in numbers]
    rows = write_part(storage, folder, 0, [(shard.name, index_of(storage, shard.uri)) for shard in shards])
    write_rows(storage, folder, rows, {})


def test_shards_that_nothing_has_counted_are_read_once_and_never_again(
    training: DihtRun, capsys: pytest.CaptureFixture[str]
) -> None:
    found, opened = look(training)
    assert sorted(opened) == ["0.tar", "1.tar", "2.tar"]
    assert "`diht index` does that beforehand" in capsys.readouterr().out
    assert [shard.samples for shard in found.shards] == SIZES
    assert found.sequential == frozenset()
    again, opened = look(training)
    assert opened == []
    assert again.shards == found.shards


def test_shards_of_the_runs_index_are_not_read_and_its_ranges_are_used(training: DihtRun) -> None:
    write_index(training, range(3))
    found, opened = look(training)
    assert (opened, found.sequential) == ([], frozenset())
    items = ShardDataset(Noting(), found.shards, indexes=found).block(1, 2, 3)
    assert [item.sample.key for item in items] == ["1-2", "1-3", "1-4"]


def test_shard_that_was_replaced_since_is_read_again(training: DihtRun, tmp_path: Path) -> None:
    look(training)
    write_shard(tmp_path, 1, 9)
    found, opened = look(training)
    assert opened == ["1.tar"]
    assert [shard.samples for shard in found.shards] == [3, 9, 2]
    items = ShardDataset(Noting(), found.shards, indexes=found).block(1, 6, 3)
    assert [item.sample.key for item in items] == ["1-6", "1-7", "1-8"]


def test_counted_shards_without_an_index_are_read_in_sequence_and_the_log_says_what_it_costs(
    training: DihtRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts_beside(tmp_path)
    write_index(training, range(1))
    found, opened = look(training)
    assert (opened, found.sequential) == ([], frozenset([1, 2]))
    assert "2 of 3 shards have no index and are read in sequence" in capsys.readouterr().out


def test_order_of_a_checkpoint_stays_in_sequence_when_an_index_is_made(training: DihtRun, tmp_path: Path) -> None:
    counts_beside(tmp_path)
    write_index(training, range(3))
    assert look(training, in_sequence=frozenset([0, 2]))[0].sequential == frozenset([0, 2])


def test_order_of_a_checkpoint_has_its_ranges_when_the_index_is_gone(training: DihtRun, tmp_path: Path) -> None:
    counts_beside(tmp_path)
    found, opened = look(training, in_sequence=frozenset([0]))
    assert sorted(opened) == ["1.tar", "2.tar"]
    assert found.sequential == frozenset([0])


def test_packed_shards_are_read_in_sequence_and_no_order_has_ranges_of_them(training: DihtRun, tmp_path: Path) -> None:
    packed = tmp_path / "0.tar"
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    found, _ = look(training)
    assert found.sequential == frozenset([0])
    keys = [item.sample.key for item in ShardDataset(Storage(), found.shards, indexes=found).sequence(0, 1)]
    assert keys == [sample.key for sample in read_samples(Storage(), found.shards[0].uri)][1:]
    with pytest.raises(DataError, match="cannot be read by ranges any more"):
        look(training, in_sequence=frozenset())


def test_damage_is_known_before_the_first_step(training: DihtRun, tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:2100])
    found, _ = look(training)
    assert [shard.samples for shard in found.shards] == [3, 1, 2]
    assert {uri: damage.salvaged for uri, damage in found.damaged.items()} == {f"{tmp_path}/1.tar": 1}


def test_kept_shards_are_not_looked_up_in_indexes_of_other_shards(training: DihtRun, tmp_path: Path) -> None:
    write_index(training, range(3))
    storage, layout = Storage(), Layout(training.spec.data.output)
    kept = [replace(shard, identity=None) for shard in train_shards(training, storage, layout)]
    noting = Noting()
    found = indexed(training, noting, layout, kept, ALONE)
    assert sorted(noting.opened) == ["0.tar", "1.tar", "2.tar"]
    assert index_folder(training.spec, storage, layout, kept) != index_folder(
        training.spec, storage, layout, found.shards[:2]
    )


def test_trainings_that_index_the_same_shards_at_once_do_not_write_over_each_other(training: DihtRun) -> None:
    storage, layout = Storage(), Layout(training.spec.data.output)
    shards = train_shards(training, storage, layout)
    first = indexed(training, storage, layout, shards, ALONE)
    storage.remove(table_uri(index_folder(training.spec, storage, layout, shards)))
    with pytest.raises(DataError, match="start again"):  # this rank's share alone
        indexed(training, storage, layout, shards, ALONE._replace(world=2))
    items = ShardDataset(Storage(), first.shards, indexes=first).block(1, 2, 3)
    assert [item.sample.key for item in items] == ["1-2", "1-3", "1-4"]
