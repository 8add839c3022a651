"""Bad samples, damaged shards within `data.maxBadShards` and bad files are counted by reason, or end the stage with a
line that tells what to do.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.run import DihtRun
from tests.recipe.filter.shards import (
    drawn,
    filter_pairs,
    filter_with,
    forget,
    kept_keys,
    pair,
    rows_of,
    run_of,
    tar_of,
    tolerating,
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


def run_with(folder: Path, limit: int | str, **rules: object) -> DihtRun:
    return tolerating(run_of(folder / "out", f"{folder}/*.tar", dict(rules)), limit)


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
    assert committed.summary["counts"] == {"input": 3, "kept": 3, "bad": {}, "dropped": {}}
    found = {item["name"]: (item["reason"], item["salvaged"]) for item in committed.summary["damaged_shards"]}
    assert found == {
        "web-1": ("the end mark is missing: it was cut off", 1),
        "web-2": ("a header has a wrong checksum", 0),
    }
    assert [len(rows_of(shards / "out", f"web-{number}")) for number in range(3)] == [2, 1, 0]


def test_resumed_stage_counts_the_damaged_shards_of_the_attempt_before(shards: Path) -> None:
    filter_with(run_with(shards, 2))
    forget(shards / "out")
    (shards / "3.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"3\.tar is damaged .*damaged so far: 3 of 4"):
        filter_with(run_with(shards, 2))


def interleaved(*names: str) -> bytes:
    return tar_of([(name, b"a dog" if name.endswith("txt") else drawn()) for name in names])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            interleaved("a.gif", "a.caption", "b.gif", "b.caption"),
            "suffixes found are caption 2, gif 2.* images of the type gif are not read: convert them to PNG, or .* "
            "diht import",
        ),
        (interleaved("a.jpg", "a.caption"), "found are caption 1, jpg 1; set data.sources\\[\\].captionKey: caption"),
        (
            interleaved("a.pic", "a.words"),
            "suffixes found are pic 1, words 1: .* set data.sources\\[\\].imageKey or captionKey",
        ),
        (interleaved("a.v1.jpg", "a.v1.txt", "b.v1.jpg", "b.v1.txt"), "dots in their base names.* rename the files"),
        (interleaved("a.jpg", "b.jpg", "a.txt", "b.txt"), "2 keys have image and caption in different.*--sort=name"),
        (interleaved("images/a.jpg", "captions/a.txt"), "suffixes found are jpg 1, txt 1"),
        (tar_of([]), "0.tar is an empty tar and holds no samples: fetch it again or leave it out"),
        (interleaved("README", "data"), "none of its 2 files has a suffix.*'README'.* name them KEY.jpg and KEY.txt"),
    ],
    ids=[
        "gif",
        "captions",
        "other suffixes",
        "dots in base names",
        "images before captions",
        "two folders",
        "empty tar",
        "no suffixes",
    ],
)
def test_shard_of_which_nothing_can_be_read_says_what_to_do(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        filter_with(run_with(tmp_path, 0))
    assert "\n" not in str(raised.value)
