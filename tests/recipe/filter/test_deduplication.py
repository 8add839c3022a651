"""Repeated images over all shards of the input: the first kept one stays, whichever worker processes which shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.commit import artefact, read_committed
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.scores import Row
from tests.folders import located
from tests.recipe.filter.shards import (
    encoded,
    filter_with,
    kept_keys,
    pair,
    rows_of,
    run_of,
    scene,
    tar_of,
)

GOOD, BARE = "a small dog chasing a red ball", "server"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """a: scenes 1, 2 (with a bare caption), 1 again as it is. b: 2, 1 smaller, 3. c: nothing but 1."""
    folder = tmp_path_factory.mktemp("shards")
    one, two, three = (encoded(scene(seed)) for seed in (1, 2, 3))
    small = encoded(scene(1).resize((64, 48)), "JPEG", quality=70)
    parts = {
        "a": [("a-1", GOOD, one), ("a-2", BARE, two), ("a-3", GOOD, one)],
        "b": [("b-1", GOOD, two), ("b-2", GOOD, small), ("b-3", GOOD, three)],
        "c": [("c-1", GOOD, one)],
    }
    for name, samples in parts.items():
        members = [member for key, caption, image in samples for member in pair(key, caption, image, uid=key)]
        (folder / f"{name}.tar").write_bytes(tar_of(members))
    return f"{folder}/*.tar"


def run_in(folder: Path, shards: str, kind: str | None) -> DihtRun:
    return run_of(folder, shards, {} if kind is None else {"duplicates": kind})


def reasons(folder: Path) -> dict[str, str]:
    rows: list[Row] = [row for shard in "abc" for row in rows_of(folder, f"web-{shard}")]
    return {row.index: row.reason for row in rows if row.reason}


@pytest.mark.parametrize(
    ("kind", "gone"),
    [(None, []), ("Exact", ["a-3", "c-1"]), ("Near", ["a-3", "b-2", "c-1"])],
    ids=["off", "Exact", "Near"],
)
def test_images_that_repeat_an_earlier_kept_one_are_dropped_and_counted(
    tmp_path: Path, shards: str, kind: str | None, gone: list[str]
) -> None:
    committed = filter_with(run_in(tmp_path / "out", shards, kind))
    assert reasons(tmp_path / "out") == {"a-2": "complexity", **dict.fromkeys(gone, "duplicate")}
    counts = committed.summary["counts"]
    assert counts["kept"] == 6 - len(gone)
    assert counts["dropped"].get("duplicate", 0) == len(gone)
    assert kept_keys(tmp_path / "out", "web-a") == [key for key in ("a-1", "a-3") if key not in gone]
    for item in committed.artefacts:
        assert artefact(Storage(), located(tmp_path / "out"), Stage.FILTER, item.path) == item


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
def test_of_two_pairs_with_one_name_only_the_repeat_is_dropped(tmp_path: Path, output: str) -> None:
    """Appending a shard to itself gives such pairs."""
    blue, gold = encoded(scene(1)), encoded(scene(2))
    samples = [("k", blue), ("x", gold), ("k", blue)]
    members = [member for key, image in samples for member in pair(key, GOOD, image, uid=key)]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"duplicates": "Exact", "output": output})
    committed = filter_with(run)
    assert committed.summary["counts"]["kept"] == 2
    (kept,) = kept_shards(run.spec, Storage(), run_layout(run, Storage()))
    assert [sample.key for sample in read_pairs(Storage(), kept)] == ["k", "x"]


def test_purge_of_a_pair_works_beside_repeats(tmp_path: Path, shards: str) -> None:
    run = run_in(tmp_path / "out", shards, "Near")
    filter_with(run)
    (tmp_path / "list").write_text("b-1\na-3")
    done = purge(run, Storage(), str(tmp_path / "list"), StopFlag())
    assert (done.pairs, done.dropped) == (1, 1)
    assert kept_keys(tmp_path / "out", "web-b") == ["b-3"]
    counts = read_committed(Storage(), located(tmp_path / "out"), Stage.FILTER).summary["counts"]
    assert counts["dropped"] == {"complexity": 1, "duplicate": 3, "exclude": 1}
    assert Storage().names(f"{tmp_path}/out/runs/latest/filter/fingerprints") == [
        "web-a.parquet",
        "web-c.parquet",
    ]
