"""Braces are expanded as the package braceexpand does it, and counted before."""

from __future__ import annotations

import time

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.api.braces import MAX_TEXTS, BracesError, check_braces, expanded

texts = st.text("abZ,./*-0", max_size=4)
numbers = st.sampled_from(["0", "3", "07", "-2", "12", "-0", "00"])
ranges = st.builds("{{{}..{}{}}}".format, numbers, numbers, st.sampled_from(["", "..2", "..0", "..-3"]))
letters = st.builds(
    "{{{}..{}{}}}".format, st.sampled_from("abAZ"), st.sampled_from("acBZ"), st.sampled_from(["", "..2"])
)
patterns = st.recursive(
    texts | ranges | letters,
    lambda inner: (
        st.lists(inner, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")
    ),
    max_leaves=8,
).filter(lambda pattern: pattern.count("..") <= 3)  # at most 58 texts each, below the limit together


@given(patterns)
def test_expansion_is_that_of_braceexpand(pattern: str) -> None:
    assert expanded(pattern) == list(braceexpand(pattern))


@given(patterns)
def test_the_count_is_that_of_the_texts(pattern: str) -> None:
    most = MAX_TEXTS // len(expanded(pattern))
    check_braces([f"{pattern}{{1..{most}}}"])
    with pytest.raises(BracesError, match="names, at most 1,000,000 are allowed"):
        check_braces([f"{pattern}{{1..{most + 1}}}"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"\{1,2\}", ["{1,2}"]),
        (r"{a\,b,c}", ["a,b", "c"]),
        (r"{a\\,b}", ["a\\", "b"]),
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("{0..1}{a,b{1..2}}", ["0a", "0b1", "0b2", "1a", "1b1", "1b2"]),
    ],
)
def test_braces_give_these_texts(pattern: str, found: list[str]) -> None:
    assert expanded(pattern) == found


HOSTILE = [
    ("{0..9999999999999999999999}.tar", r"at least 10\^22 names, at most 1,000,000 are allowed: write smaller ranges"),
    ("{a,b}" * 21, "2,097,152 names"),
    ("{" + "{0..999999}," * 2 + "{a,b}}", "2,000,002 names"),
    ("{" * 500, "nested deeper than 16"),
    ("{" * 500 + "}" * 500, "nested deeper than 16"),
    ("{0..9}" * 170, r"10\^170 names"),
    ("{a", "not balanced"),
    ("a}", "not balanced"),
    ("}{", "not balanced"),
]


@pytest.mark.parametrize(("pattern", "message"), HOSTILE)
def test_braces_that_cannot_be_expanded_are_refused_at_once(pattern: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(BracesError, match=message):
        expanded(pattern)
    with pytest.raises(BracesError, match=message):
        check_braces([pattern])
    assert time.process_time() - began < 0.5


def test_patterns_are_counted_together() -> None:
    check_braces(["{1..500000}", "{1..500000}"])
    with pytest.raises(
        BracesError, match=r"stand for 500,001 names, at most 1,000,000 .* 500,000 of which the patterns before"
    ):
        check_braces(["{1..500000}", "{1..500001}"])
