"""`output: KeepList`: nothing is copied, and later stages read the same pairs from the raw shards."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.images import thumbnails
from diht_k8s.data.shards.pairs import read_keep_list, read_pairs
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import artefact
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from tests.folders import located
from tests.recipe.filter.shards import drawn, filter_with, pair, run_of, tar_of

GOOD, BARE = "a small dog chasing a red ball", "server"
LISTED = {"output": "KeepList"}


def write_raw(folder: Path, suffix: str = "png") -> str:
    """a: 0 kept, 1 bare, 2 bad, 3 repeats 0, 4 kept with the uid of 1. b: nothing is kept. c: 0 repeats a-0, 1 kept."""
    folder.mkdir(exist_ok=True)
    blue, red, gold = drawn(), drawn(colour="red"), drawn(colour="gold")
    shards = {
        "a": [("a-0", GOOD, blue), ("a-1", BARE, red), ("a-2", b"\xff", red), ("a-3", GOOD, blue), ("a-4", GOOD, red)],
        "b": [("b-0", BARE, blue)],
        "c": [("c-0", GOOD, blue), ("c-1", GOOD, gold)],
    }
    for name, samples in shards.items():
        members: list[tuple[str, bytes]] = []
        for key, caption, image in samples:
            uid = "a-1" if key == "a-4" else key
            own = pair(key, caption, image) if isinstance(caption, bytes) else pair(key, caption, image, uid=uid)
            members += [(f"{key}.{suffix}", image), *own[1:]]
        (folder / f"{name}.tar").write_bytes(tar_of(members))
    return f"{folder}/*.tar"


def pairs_of(run: DihtRun) -> dict[str, list[tuple[str, str, str, bytes]]]:
    """The pairs that later stages see of each shard."""

    def seen(sample: Sample) -> tuple[str, str, str, bytes]:
        return sample.key, sample.uid, sample.caption, sample.image

    storage = Storage()
    return {
        shard.name: list(map(seen, read_pairs(storage, shard)))
        for shard in kept_shards(run.spec, storage, run_layout(run, storage))
    }


@pytest.mark.parametrize("duplicates", [None, "Exact"])
@pytest.mark.parametrize("suffix", ["png", "img"])
def test_later_stages_see_the_pairs_that_copies_would_hold(tmp_path: Path, suffix: str, duplicates: str | None) -> None:
    raw, source = write_raw(tmp_path / "raw", suffix), {} if suffix == "png" else {"imageKey": suffix}
    rules: dict[str, Any] = {"maxBadPercent": 20, **({} if duplicates is None else {"duplicates": duplicates})}
    copied, listed = (
        run_of(tmp_path / name, raw, rules | more, **source) for name, more in (("copied", {}), ("listed", LISTED))
    )
    committed = [filter_with(run) for run in (copied, listed)]
    assert committed[0].summary["counts"] == committed[1].summary["counts"]
    assert pairs_of(listed) == pairs_of(copied)
    keys = {name: [key for key, *_ in pairs] for name, pairs in pairs_of(listed).items()}
    repeats = {"web-a": ["a-0", "a-3", "a-4"], "web-c": ["c-0", "c-1"]}
    assert keys == (repeats if duplicates is None else {"web-a": ["a-0", "a-4"], "web-c": ["c-1"]})
    assert not list((tmp_path / "listed").rglob("*.tar"))
    layout = located(tmp_path / "listed")
    for item in committed[1].artefacts:
        assert artefact(Storage(), layout, Stage.FILTER, item.path) == item


def listed_run(tmp_path: Path, **rules: Any) -> DihtRun:
    run = run_of(tmp_path / "out", write_raw(tmp_path / "raw"), {"maxBadPercent": 20, **LISTED, **rules})
    filter_with(run)
    return run


def test_list_names_rows_and_uids(tmp_path: Path) -> None:
    listed_run(tmp_path)
    listed = [read_keep_list(Storage(), located(tmp_path / "out").keep_list(f"web-{shard}")) for shard in "abc"]
    assert listed == [[(0, "a-0"), (3, "a-3"), (4, "a-1")], [], [(0, "c-0"), (1, "c-1")]]


def test_report_shows_listed_images_of_other_names(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", "img")
    run = run_of(tmp_path / "out", raw, {"maxBadPercent": 20, **LISTED}, imageKey="img")
    filter_with(run)
    first = kept_shards(run.spec, Storage(), run_layout(run, Storage()))[0]
    assert list(thumbnails(Storage(), [(first, "a-3"), (first, "a-2")])) == ["a-3"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["a-0"],
            r"web-a\.parquet was made \(row 3 should be 'a-3'\): put the old one back, or run the stage filter again",
        ),
        (["a-9", "a-0", "a-1", "a-2", "a-3"], r"raw/a\.tar is not the shard from which .*\(row 0 should be 'a-0'\)"),
    ],
    ids=["shorter", "other pairs"],
)
def test_shard_that_was_replaced_since_is_refused(tmp_path: Path, keys: list[str], message: str) -> None:
    first = kept_shards(listed_run(tmp_path).spec, Storage(), run_layout(listed_run(tmp_path), Storage()))[0]
    members = [member for key in keys for member in pair(key, GOOD, uid=key)]
    (tmp_path / "raw/a.tar").write_bytes(tar_of(members))
    with pytest.raises(DataError, match=message):
        list(read_pairs(Storage(), replace(first, identity=None)))
    with pytest.raises(DataError, match=r"web-a\.parquet was made \(it has changed since.*\): put the old one back"):
        list(read_pairs(Storage(), first))


def test_shard_that_was_copied_without_its_time_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run = listed_run(tmp_path)
    first = kept_shards(run.spec, Storage(), run_layout(run, Storage()))[0]
    os.utime(tmp_path / "raw/a.tar", ns=(1, 1))
    with pytest.raises(
        DataError, match=r"it has changed since, by its time alone; .* cp -a or rsync -t\): put the old"
    ):
        list(read_pairs(Storage(), first))


def test_table_that_is_not_a_keep_list_is_refused(tmp_path: Path) -> None:
    listed_run(tmp_path)
    with pytest.raises(DataError, match=r"web-a\.parquet is not a keep list: run the stage filter again"):
        read_keep_list(Storage(), located(tmp_path / "out").scores("web-a"))


def test_run_that_no_longer_names_the_shards_is_refused(tmp_path: Path) -> None:
    listed_run(tmp_path)
    (tmp_path / "raw/a.tar").rename(tmp_path / "raw/z.tar")
    moved = run_of(tmp_path / "out", f"{tmp_path}/raw/*.tar", LISTED)
    with pytest.raises(UserError, match=r"kept pairs of the shard web-a, which spec\.data\.sources no longer match"):
        kept_shards(moved.spec, Storage(), run_layout(moved, Storage()))
