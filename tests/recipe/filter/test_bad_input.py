"""Bad input is counted by reason, or ends the stage with its exit code and a line that tells what to do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError
from tests.recipe.filter.shards import (
    drawn,
    filter_pairs,
    filter_with,
    kept_keys,
    pair,
    rows_of,
    run_of,
    tar_of,
    write_shards,
)

GOOD = "a small dog chasing a red ball"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.jpg", b"this is a text"), ("x.txt", GOOD.encode())], "picture_unreadable"),
        ([("x.txt", GOOD.encode())], "picture_missing"),
        ([("x.png", drawn())], "caption_missing"),
        (pair("x" * 260, GOOD), "name_too_long"),
        (pair("b/../../a", GOOD), "name_unsafe"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "unfiltered"])
def test_bad_sample_is_counted_by_reason_and_skipped(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str, filtered: bool
) -> None:
    samples = [*pair("a", GOOD), *members, *pair("b/z", GOOD)]
    committed = filter_pairs(tmp_path, samples, {"maxBadPercent": 50.0}, filter=filtered)
    assert committed.summary["counts"] == {"input": 3, "kept": 2, "bad": {reason: 1}, "dropped": {}}
    assert [row.reason for row in rows_of(tmp_path / "out", "web-a")] == ["", f"bad:{reason}", ""]
    assert kept_keys(tmp_path / "out", "web-a") == ["a", "b/z"]


STRANGE = (
    *("🙂🙂🙂", "\u202egod llams", "的 小狗", "a " * 2000, "((((", "'s 's 's", "A", "1 2 3", "\x00\x01 dog", "«»—…"),
    "dog\u2028cat",
)


def test_strange_captions_are_scored_without_an_error(tmp_path: Path) -> None:
    members = [member for number, caption in enumerate((GOOD, *STRANGE)) for member in pair(str(number), caption)]
    filter_pairs(tmp_path, members, {"maxBadPercent": 50.0})
    assert len(rows_of(tmp_path / "out", "web-a")) == 1 + len(STRANGE)


def test_share_of_bad_samples_above_the_limit_stops_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([*pair("a", GOOD), *pair("b", b""), *pair("c", GOOD, b"")]))
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar")
    with pytest.raises(
        DataError, match=r"2 of 3 samples are bad \(caption_empty 1, picture_empty 1\), 66.7 % .*maxBadPercent 1:"
    ):
        filter_with(run)
    filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"maxBadPercent": 70.0}))


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", write_shards(tmp_path / "in"))
    filter_with(run)
    (tmp_path / "out/runs/latest/filter/COMMITTED.json").unlink()
    path = tmp_path / "out/runs/latest/filter/scores/web-00000.parquet"
    path.write_bytes(io.BytesIO(path.read_bytes()).read(100))
    with pytest.raises(DataError, match=r"web-00000\.parquet is damaged .*: remove .*web-00000\.parquet and start"):
        filter_with(run)
