"""What a benchmark's samples say beside image and caption."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sized
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.samples import Sample, make_sample
from diht_k8s.stages.evaluate.benchmark_images import (
    Cue,
    PreparedImage,
    captions_of,
    classes_of,
    cues_of,
    group_of,
    label_of,
    lacks_first_caption,
    questions_of,
    read_images,
    unusable_captions,
    unusable_cues,
    unusable_questions,
)


def sample(npy: bytes) -> Sample:
    return Sample(key="a", members={"npy": npy}, uid="a", caption="", meta={}, problem=None)


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([3, 2017]))
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a.npy", array())
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("npy", [archive(), pickled(), b"PK\x03\x04 cut off", b"text"])
def test_group_when_the_member_is_something_else_is_an_error_of_the_data(npy: bytes) -> None:
    with pytest.raises(DataError, match=r"sample a: its \.npy is not an array of numbers"):
        group_of(sample(npy))


def make(**meta: Any) -> Sample:
    return Sample(key="a", members=meta.pop("members", {}), uid="a", caption="", meta=meta, problem=None)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("north", "north"),
        (3, "3"),
        ("x" * 60, "x" * 60),
        ("x" * 80, "x" * 40 + " d929cdeea7e6a0f4"),
        ("\ud83d", "? 7586f70fb89addbc"),
        (None, None),
        (["north"], None),
    ],
)
def test_group_when_the_json_names_it_is_short_text(group: object, expected: str | None) -> None:
    assert group_of(make(group=group)) == expected


@pytest.mark.parametrize(
    ("number", "name"),
    [(1_234_567, "1234567"), (0.5, "0.5"), (3.0, "3"), (float("nan"), "nan")],
)
def test_group_when_it_is_a_number_keeps_all_its_digits(number: float, name: str) -> None:
    raw = io.BytesIO()
    np.save(raw, np.array([number]))
    assert group_of(sample(raw.getvalue())) == name


@pytest.mark.parametrize(
    ("made", "expected"),
    [(make(cls=4), 4), (make(), None), (make(members={"cls": b"7"}, cls=4), 7), (make(members={"cls": b" 2\n"}), 2)],
)
def test_label_is_that_of_the_member_else_that_of_the_json(made: Sample, expected: int | None) -> None:
    assert label_of(made) == expected


@pytest.mark.parametrize(
    ("listed", "expected"),
    [([3, 0, 3], (3, 0)), ([], ()), (None, None), (3, None), ([1, -1], None), ([True], None), (["cat"], None)],
)
def test_classes_are_a_list_of_whole_numbers_from_zero_or_unknown(listed: object, expected: object) -> None:
    assert classes_of(make(classes=listed), "classes") == expected


@pytest.mark.parametrize("value", [True, -1, 1.5, "red" * 20])
def test_label_when_it_is_no_number_from_zero_is_an_error_that_shows_its_beginning(value: object) -> None:
    with pytest.raises(DataError, match=re.escape(f"sample a has class {str(value)[:40]!r}: ")):
        label_of(make(cls=value))


@pytest.mark.parametrize(
    ("meta", "expected", "unusable"),
    [
        ({"question": " what? ", "answer": "a"}, [("what?", ("a",), ())], 0),
        (
            {"question": "what?", "answers": ["a", "", None], "candidates": ["a", "b"]},
            [("what?", ("a",), ("a", "b"))],
            0,
        ),
        ({"question": 5, "answers": ["a", 3], "candidates": [3, "4"]}, [("5", ("a", "3"), ("3", "4"))], 0),
        (
            {"questions": [{"question": "a?", "answer": "b"}, {"question": "c?"}, 7, {"answer": "d"}]},
            [("a?", ("b",), ())],
            1,
        ),
        ({"question": "is it?", "answer": True}, [], 1),
        ({"question": "how long?", "answers": ["2", 2.5]}, [], 1),
        ({"question": "which?", "answer": "a", "candidates": ["a", False]}, [], 1),
        ({"question": ["what?"], "answer": "b"}, [], 1),
        ({"question": "what \ud83d?", "answer": "b"}, [], 1),
        ({"question": "which?", "answer": "a", "candidates": ["a", "\ud83d"]}, [], 1),
        ({"question": " ", "answer": "b"}, [("", ("b",), ())], 0),
        ({"questions": "a?"}, [], 0),
        ({}, [], 0),
    ],
)
def test_questions_are_those_of_text_and_whole_numbers_and_the_others_are_counted(
    meta: dict[str, Any], expected: list[Any], unusable: int
) -> None:
    found = questions_of(make(**meta))
    assert [(each.text, each.answers, each.candidates) for each in found] == expected
    assert unusable_questions(make(**meta)) == unusable


def test_cues_are_those_that_are_complete_with_short_groups() -> None:
    whole = {"group": "g" * 60, "cue": " owl ", "associated": True, "candidates": 5}
    others = [
        {**whole, "cue": 3},
        {**whole, "cue": "\ud83d"},
        {**whole, "associated": 1},
        "junk",
        {**whole, "candidates": "many", "group": 2},
    ]
    found = cues_of(make(cues=[whole, *others]))
    assert found == (Cue("g" * 60, "owl", True, 5), Cue("2", "owl", True, 0))
    words = [
        cue.group for cue in cues_of(make(cues=[{"cue": cue, "associated": True} for cue in ("owl", "night", "owl")]))
    ]
    assert (words[0] == words[2], words[0] == words[1]) == (True, False), "cues without a group go by their words"
    assert unusable_cues(make(cues=[whole, *others, {"cue": " owl "}, {"cue": 3}])) == (
        *["g" * 60] * 3,
        "",
        "cue owl",
        "",
    )


@pytest.mark.parametrize(
    ("members", "meta", "problem", "expected"),
    [
        ({"txt": b" a  dog \n\na cat\n"}, {"captions": ["other"]}, None, ("a dog", "a cat")),
        ({}, {"captions": ["a dog", 3, ""]}, None, ("a dog",)),
        ({}, {"captions": ["a dog \ud83d", "a cat"]}, None, ("a cat",)),
        ({}, {}, None, ("first",)),
        ({"txt": b"\xff"}, {"captions": ["a dog"]}, "caption_unreadable", ("a dog",)),
    ],
)
def test_captions_are_the_lines_of_the_text_else_those_of_the_json(
    members: dict[str, bytes], meta: dict[str, Any], problem: str | None, expected: tuple[str, ...]
) -> None:
    made = Sample(key="a", members=members, uid="a", caption="first", meta=meta, problem=problem)
    assert captions_of(made) == expected


@pytest.mark.parametrize(
    ("members", "meta", "expected"),
    [
        ({"txt": b"\na cat\n"}, {}, True),
        ({"txt": b"a dog\n\na cat\n"}, {}, False),
        ({}, {"captions": [" ", "a cat"]}, True),
        ({}, {"captions": ["a dog", ""]}, False),
        ({}, {"captions": []}, False),
        ({}, {}, False),
    ],
)
def test_captions_when_the_first_is_empty_say_so(
    members: dict[str, bytes], meta: dict[str, Any], expected: bool
) -> None:
    assert lacks_first_caption(make(members=members, **meta)) is expected


@pytest.mark.parametrize(
    ("meta", "unusable", "why"),
    [
        ({"captions": ["\ud83d", "a cat", 3, "\ud83e", None, ""]}, {"caption_no_text": 1, "caption_not_utf8": 2}, ""),
        ({"captions": ["a dog \ud83d"]}, {"caption_not_utf8": 1}, "caption_not_utf8"),
        ({"caption": "a dog \ud83d"}, {}, "caption_not_utf8"),
        ({"captions": [""], "uid": "\ud83d"}, {}, "caption_missing"),
        ({"captions": ["a cat"]}, {}, ""),
    ],
)
def test_captions_that_no_file_can_hold_are_counted_by_reason(
    meta: dict[str, Any], unusable: dict[str, int], why: str
) -> None:
    made = make_sample("a", {"png": b"x", "json": json.dumps(meta).encode()})
    assert unusable_captions(made) == unusable
    ((item, *_),) = read_images(iter([made]), "0.tar", lambda each: PreparedImage(torch.zeros(1)), Counter())
    assert (item.unusable_captions, item.no_caption) == (unusable, why)
    assert json.dumps(asdict(item), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("read", "what", "entry"),
    [
        (captions_of, "captions", "a cat"),
        (questions_of, "questions", {"question": "what?", "answer": "a cat"}),
        (cues_of, "cues", {"group": "1", "cue": "cat", "associated": True}),
    ],
)
def test_texts_of_an_image_are_all_read_or_too_many_and_an_error(
    read: Callable[[Sample], Sized], what: str, entry: object
) -> None:
    assert len(read(make(**{what: [entry] * 4096}))) == 4096
    with pytest.raises(DataError, match=f"sample a has 4,097 {what}, and an image may have 4,096: write fewer"):
        read(make(**{what: [entry] * 4097}))
