"""Where the counts of a training's shards come from: the filter, an index, img2dataset, and only then the shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.runtime.bad_shards import Damage
from diht_k8s.recipe.shards.index import index_of
from diht_k8s.recipe.shards.index_files import write_part, write_rows
from diht_k8s.recipe.shards.samples import write_samples
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.setup import counted, train_shards

SIZES = [3, 5, 2]


class Noting(Storage):
    """Notes which shards are read."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, uri: str):
        self.opened.append(uri.rpartition("/")[2])
        return super().open(uri)


def make_run(folder: Path, **train: object) -> DihtRun:
    for number, size in enumerate(SIZES):
        pairs = [(f"{number}{pair}", {"jpg": b"x", "txt": b"a dog"}) for pair in range(size)]
        write_samples(Storage(), f"{folder}/{number}.tar", pairs)
    body = {"model": "ViT-B-32", "samples": 64, "batchSize": 2, "distillation": {"mode": "Disabled"}, **train}
    data = {"sources": [{"name": "a", "shards": [f"{folder}/*.tar"]}], "output": f"{folder}/out"}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    return DihtRun.model_validate({**document, "spec": {"data": data, "train": body}})


def write_index(run: DihtRun, *names: str) -> None:
    storage, shards = Storage(), train_shards(run, Storage())
    folder = Layout(run.spec.data.output).index
    named = [(shard.name, index_of(storage, shard.uri)) for shard in shards if shard.name in names]
    write_rows(storage, folder, write_part(storage, folder, 0, named), {})


def counts(run: DihtRun) -> tuple[list[int | None], dict[str, Damage], list[str]]:
    storage = Noting()
    shards, damaged = counted(storage, train_shards(run, storage), 2, rank=0, world=1)
    return [shard.samples for shard in shards], damaged, [name for name in storage.opened if name.endswith(".tar")]


def test_shards_without_counts_are_read(tmp_path: Path) -> None:
    assert counts(make_run(tmp_path)) == (SIZES, {}, ["0.tar", "1.tar", "2.tar"])


@pytest.mark.parametrize("own", [False, True], ids=["sources", "train.shards"])
def test_with_an_index_no_shard_is_read(tmp_path: Path, own: bool) -> None:
    run = make_run(tmp_path, **({"shards": [f"{tmp_path}/*.tar"]} if own else {}))
    write_index(run, *(f"{prefix}{number}" for number in range(3) for prefix in ("", "a-")))
    assert counts(run) == (SIZES, {}, [])


def test_shards_that_the_index_does_not_know_or_knows_as_others_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_index(run, "a-0", "a-1")
    pairs = [(f"new{pair}", {"jpg": b"x", "txt": b"a dog"}) for pair in range(9)]
    write_samples(Storage(), f"{tmp_path}/1.tar", pairs)
    assert counts(run) == ([3, 9, 2], {}, ["1.tar", "2.tar"])


def test_damaged_shards_are_read_for_their_damage(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:2100])
    write_index(run, "a-0", "a-1", "a-2")
    found, damaged, read = counts(run)
    assert (found, read) == ([3, 1, 2], ["1.tar"])
    assert list(damaged) == [f"{tmp_path}/1.tar"]


def test_counts_of_img2dataset_are_taken(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for number, size in enumerate(SIZES):
        (tmp_path / f"{number}_stats.json").write_text(json.dumps({"successes": size}))
    assert counts(run) == (SIZES, {}, [])
