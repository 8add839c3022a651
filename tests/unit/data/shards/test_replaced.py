"""Versions of files, and copies of which only the time is another one."""

from __future__ import annotations

import pytest

from diht_k8s.data.shards.replaced import copied_without_times, differ_by_time_alone


@pytest.mark.parametrize(
    ("before", "now", "by_time_alone"),
    [
        ("100-17", "100-18", True),
        ("100-17", "100-17", False),
        ("100-17", "101-18", False),
        ("100-0f343b09", "100-9e107d9d", False),
        ("100-17", "100-9e107d9d", False),
    ],
    ids=["time", "nothing", "size", "contents on S3", "moved to S3"],
)
def test_time_alone(before: str, now: str, by_time_alone: bool) -> None:
    assert differ_by_time_alone(before, now) is by_time_alone


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"a": ("1-1", "1-2"), "b": ("2-1", "2-1"), "c": ("3-1", "3-9")}, "2 of 3 shards "),
        ({"a": ("1-1", "1-1")}, None),
        ({"a": ("1-1", "1-2"), "b": ("2-1", "3-1")}, None),
    ],
    ids=["times", "none", "one by its size"],
)
def test_line(versions: dict[str, tuple[str, str]], says: str | None) -> None:
    line = copied_without_times((name, *pair) for name, pair in versions.items())
    assert (line is None) is (says is None)
    assert line is None or (line.startswith(says or "") and "(a is the first)" in line)
