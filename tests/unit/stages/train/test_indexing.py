"""Index of a training's shards: from the run's index, from reading shards that nothing has counted, or from nowhere (in sequence)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.shard_index import index_of, table_uri, write_part, write_rows
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.inputs import index_folder
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.indexing import IndexedShards, RankAttempt, indexed
from diht_k8s.stages.train.setup import train_shards

SIZES = [3, 5, 2]
FIRST = RankAttempt(1, 0, 1)


class Noting(Storage):
    """Notes which shards are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    @contextmanager
    def open(self, uri: str) -> Iterator[IO[bytes]]:
        if ".tar" in uri:
            self.opened.append(uri.rpartition("/")[2])
        with super().open(uri) as file:
            yield file


def pairs(number: int, size: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"{number}{pair}", {"jpg": b"x", "txt": b"a dog"}) for pair in range(size)]


@pytest.fixture
def run(tmp_path: Path) -> DihtRun:
    for number, size in enumerate(SIZES):
        write_samples(Storage(), f"{tmp_path}/{number}.tar", pairs(number, size))
    body = {"model": "ViT-B-32", "samples": 64, "batchSize": 2, "distillation": {"mode": "Disabled"}}
    data = {"sources": [{"name": "a", "shards": [f"{tmp_path}/*.tar*"]}], "output": f"{tmp_path}/out"}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    return DihtRun.model_validate({**document, "spec": {"data": data, "train": body}})


def look(
    run: DihtRun, attempt: RankAttempt = FIRST, in_sequence: frozenset[int] | None = None
) -> tuple[IndexedShards, list[str]]:
    storage, layout = Noting(), Layout(run.spec.data.output)
    shards = train_shards(run, storage, layout)
    return indexed(run, storage, layout, shards, attempt, in_sequence=in_sequence), storage.opened


def counts_beside(folder: Path) -> None:
    for number, size in enumerate(SIZES):
        (folder / f"{number}_stats.json").write_text(json.dumps({"successes": size}))


def make_index(run: DihtRun, numbers: range) -> None:
    storage, layout = Storage(), Layout(run.spec.data.output)
    known = train_shards(run, storage, layout)
    folder, shards = index_folder(run.spec, storage, layout, known), [known[number] for number in numbers]
    rows = write_part(storage, folder, 0, [(shard.name, index_of(storage, shard.uri)) for shard in shards])
    write_rows(storage, folder, rows, {})


def test_shards_that_nothing_has_counted_are_read_once_and_never_again(
    run: DihtRun, capsys: pytest.CaptureFixture[str]
) -> None:
    found, opened = look(run)
    assert sorted(opened) == ["0.tar", "1.tar", "2.tar"]
    assert "`diht index` does that beforehand" in capsys.readouterr().out
    assert [shard.samples for shard in found.shards] == SIZES
    assert found.sequential == frozenset()
    again, opened = look(run, RankAttempt(2, 0, 1))
    assert opened == []
    assert again.shards == found.shards


def test_shards_of_the_runs_index_are_not_read_and_its_ranges_are_used(run: DihtRun) -> None:
    make_index(run, range(3))
    found, opened = look(run)
    assert (opened, found.sequential) == ([], frozenset())
    items = ShardDataset(Noting(), found.shards, indexes=found).block(1, 2, 3)
    assert [item.sample.key for item in items] == ["12", "13", "14"]


def test_shard_that_was_replaced_since_is_read_again(run: DihtRun, tmp_path: Path) -> None:
    look(run)
    write_samples(Storage(), f"{tmp_path}/1.tar", pairs(1, 9))
    found, opened = look(run, RankAttempt(2, 0, 1))
    assert opened == ["1.tar"]
    assert [shard.samples for shard in found.shards] == [3, 9, 2]
    items = ShardDataset(Noting(), found.shards, indexes=found).block(1, 6, 3)
    assert [item.sample.key for item in items] == ["16", "17", "18"]


def test_counted_shards_without_an_index_are_read_in_sequence_and_the_log_says_what_it_costs(
    run: DihtRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts_beside(tmp_path)
    make_index(run, range(1))
    found, opened = look(run)
    assert (opened, found.sequential) == ([], frozenset([1, 2]))
    assert "2 of 3 shards have no index and are read in sequence" in capsys.readouterr().out


def test_order_of_a_checkpoint_stays_in_sequence_when_an_index_is_made(run: DihtRun, tmp_path: Path) -> None:
    counts_beside(tmp_path)
    make_index(run, range(3))
    assert look(run, in_sequence=frozenset([0, 2]))[0].sequential == frozenset([0, 2])


def test_order_of_a_checkpoint_has_its_ranges_when_the_index_is_gone(run: DihtRun, tmp_path: Path) -> None:
    counts_beside(tmp_path)
    found, opened = look(run, in_sequence=frozenset([0]))
    assert sorted(opened) == ["1.tar", "2.tar"]
    assert found.sequential == frozenset([0])


def test_packed_shards_are_read_in_sequence_and_no_order_has_ranges_of_them(run: DihtRun, tmp_path: Path) -> None:
    packed = tmp_path / "0.tar"
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    found, _ = look(run)
    assert found.sequential == frozenset([0])
    keys = [item.sample.key for item in ShardDataset(Storage(), found.shards, indexes=found).sequence(0, 1)]
    assert keys == [sample.key for sample in read_samples(Storage(), found.shards[0].uri)][1:]
    with pytest.raises(DataError, match="cannot be read by ranges any more"):
        look(run, in_sequence=frozenset())


def test_damage_is_known_before_the_first_step(run: DihtRun, tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:2100])
    found, _ = look(run)
    assert [shard.samples for shard in found.shards] == [3, 1, 2]
    assert {uri: damage.salvaged for uri, damage in found.damaged.items()} == {f"{tmp_path}/1.tar": 1}


def test_kept_shards_are_not_looked_up_in_indexes_of_other_shards(run: DihtRun, tmp_path: Path) -> None:
    make_index(run, range(3))
    storage, layout = Storage(), Layout(run.spec.data.output)
    kept = [replace(shard, identity=None) for shard in train_shards(run, storage, layout)]
    noting = Noting()
    found = indexed(run, noting, layout, kept, FIRST)
    assert sorted(noting.opened) == ["0.tar", "1.tar", "2.tar"]
    assert index_folder(run.spec, storage, layout, kept) != index_folder(run.spec, storage, layout, found.shards[:2])


def test_trainings_that_index_the_same_shards_at_once_do_not_write_over_each_other(run: DihtRun) -> None:
    storage, layout = Storage(), Layout(run.spec.data.output)
    shards = train_shards(run, storage, layout)
    first = indexed(run, storage, layout, shards, FIRST)
    storage.remove(table_uri(index_folder(run.spec, storage, layout, shards)))
    with pytest.raises(DataError, match="start again"):  # this rank's share alone
        indexed(run, storage, layout, shards, RankAttempt(1, 0, 2))
    items = ShardDataset(Storage(), first.shards, indexes=first).block(1, 2, 3)
    assert [item.sample.key for item in items] == ["12", "13", "14"]
