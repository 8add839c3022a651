"""Damaged shards within `data.maxBadShards`: the samples before the damage are filtered, and every stage sees the same counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.run import DihtRun
from tests.recipe.filter.shards import filter_with, pair, rows_of, run_of, tar_of

GOOD = "a small dog chasing a red ball"


def run_with(folder: Path, limit: int | str, **rules: object) -> DihtRun:
    run = run_of(folder / "out", f"{folder}/*.tar", dict(rules))
    data = run.spec.data.model_copy(update={"max_bad_shards": limit})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"data": data})})


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two pairs: one is whole, one is cut within its second pair, one is no tar."""
    whole = tar_of([*pair("a", GOOD), *pair("b", GOOD)])
    (tmp_path / "0.tar").write_bytes(whole)
    (tmp_path / "1.tar").write_bytes(whole[: whole.index(b"b.")])
    (tmp_path / "2.tar").write_bytes(b"no tar at all" * 100)
    return tmp_path


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
def test_damaged_shards_within_the_limit_are_counted_with_what_was_salvaged(shards: Path, output: str) -> None:
    committed = filter_with(run_with(shards, 2, output=output))
    assert committed is not None
    assert committed.summary["counts"] == {"input": 3, "kept": 3, "bad": {}, "dropped": {}}
    found = {item["name"]: (item["reason"], item["salvaged"]) for item in committed.summary["damaged_shards"]}
    assert found == {
        "web-1": ("the end mark is missing: it was cut off", 1),
        "web-2": ("a header has a wrong checksum", 0),
    }
    assert [len(rows_of(shards / "out", f"web-{number}")) for number in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("limit", [0, 1, "50%"])
def test_more_damaged_shards_than_allowed_stop_the_stage_and_the_field_is_named(shards: Path, limit: int | str) -> None:
    with pytest.raises(DataError, match=r"[12]\.tar is damaged after .* raise spec\.data\.maxBadShards"):
        filter_with(run_with(shards, limit))
