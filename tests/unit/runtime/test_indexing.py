"""`diht index`: workers share the shards, nothing is read twice, and a training finds what they wrote."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from diht_k8s.api.errors import StopRequested
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards import sources
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import StoredIndex, read_range
from diht_k8s.data.shards.sources import input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime import claims, indexing
from diht_k8s.runtime.indexing import make_index
from diht_k8s.runtime.inputs import index_folder
from diht_k8s.runtime.signals import StopFlag


class Noting(Storage):
    """Notes the shards that are read whole."""

    opened: ClassVar[list[str]] = []

    def open(self, uri: str):
        if uri.endswith(".tar"):
            self.opened.append(uri.rpartition("/")[2])
        return super().open(uri)


def write_shard(folder: Path, number: int, pairs: int = 4) -> None:
    named = [(f"{number}-{pair}", {"jpg": bytes([number]) * 700, "txt": b"a dog"}) for pair in range(pairs)]
    write_samples(Storage(), f"{folder}/{number}.tar", named)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DihtRun:
    monkeypatch.setattr(sources, "MAX_GROUPS", 4)
    monkeypatch.setattr(Noting, "opened", [])
    for number in range(9):
        write_shard(tmp_path, number, number + 1)
    body = {"model": "ViT-B-32", "samples": 64, "batchSize": 2, "distillation": {"mode": "Disabled"}}
    data = {"sources": [{"name": "a", "shards": [f"{tmp_path}/*.tar"]}], "output": f"{tmp_path}/out"}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    return DihtRun.model_validate({**document, "spec": {"data": data, "train": body}})


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

    late._take, late._there = lambda *_: False, lambda: {group.number for group in late._groups}  # type: ignore[method-assign]
    late._claims.take = complete_then_take  # type: ignore[method-assign]
    assert late.run(lambda _: None).shards == 9
    assert there() == set()
    assert_is_right(run)
