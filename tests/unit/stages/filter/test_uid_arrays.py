from __future__ import annotations

from pathlib import Path

import numpy as np

from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter.uid_lists import INDEX, UID_LIST, CaptionScores, uid_numbers, write_index

LOW, MIDDLE, HIGH = "0" * 31 + "1", "7f" * 16, "F" * 32


def test_numbers_are_the_halves_of_the_digits_in_either_case() -> None:
    assert uid_numbers([LOW, HIGH.lower(), HIGH]).tolist() == [[0, 1], [2**64 - 1] * 2, [2**64 - 1] * 2]
    assert uid_numbers([]).shape == (0, 2)
    assert len(np.unique(uid_numbers(["row 1", "row 2", "é"]), axis=0)) == 3


def test_index_names_the_part_of_each_uid_and_none_of_an_unknown_one(tmp_path: Path) -> None:
    same_half = "f" * 16 + "0" * 16
    written = write_index(Storage(), str(tmp_path), [[HIGH, LOW], [], [MIDDLE, same_half]])
    assert written == [INDEX, UID_LIST]
    scores = CaptionScores(Storage(), str(tmp_path))
    asked = [MIDDLE, LOW, "e" * 32, HIGH, same_half, "f" * 16 + "1" * 16, "no digits"]
    assert scores._parts_of(asked) == [2, 0, None, 0, 2, None, None]
    listed = np.load(tmp_path / UID_LIST)
    assert listed.dtype == np.dtype("u8,u8"), "as DataComp reads it"
    assert [f"{high:016x}{low:016x}" for high, low in listed.tolist()] == [LOW, MIDDLE, same_half, HIGH.lower()]


def test_index_without_survivors_finds_nothing(tmp_path: Path) -> None:
    write_index(Storage(), str(tmp_path), [[], []])
    assert CaptionScores(Storage(), str(tmp_path))._parts_of([LOW, HIGH]) == [None, None]
