"""Keys that lead out of the folder into which a tar is unpacked are bad samples, and the filter never copies them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.filter.shards import filter_pairs, kept_keys, pair, rows_of

GOOD = "a brown dog running over wet sand"


@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "unfiltered"])
@pytest.mark.parametrize("key", ["../a", "b/../a", "b/../../a", "/a", "/b/a"])
def test_sample_with_an_unsafe_key_is_bad_and_not_copied(tmp_path: Path, key: str, filtered: bool) -> None:
    committed = filter_pairs(
        tmp_path, [*pair("a", GOOD), *pair(key, GOOD), *pair("b/z", GOOD)], {"maxBadPercent": 50.0}, filter=filtered
    )
    assert committed.summary["counts"] == {"input": 3, "kept": 2, "bad": {"name_unsafe": 1}, "dropped": {}}
    assert [row.reason for row in rows_of(tmp_path / "out", "web-a")] == ["", "bad:name_unsafe", ""]
    assert kept_keys(tmp_path / "out", "web-a") == ["a", "b/z"]
