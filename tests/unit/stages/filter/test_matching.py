from __future__ import annotations

from typing import Literal

import pytest

from diht_k8s.api.filter import Filter, TextSpotting
from diht_k8s.stages.filter.rules import match_rule
from diht_k8s.stages.filter.text_spotting.matching import MatchRule, SpottedText, normalised_words

CAPTION = "Golden retriever puppy, Ice-cream No. 5"


def rule(**settings: object) -> MatchRule:
    return match_rule(Filter(text_spotting=TextSpotting.model_validate(settings)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ice-cream No. 5", ["icecream", "no", "5"]),
        ("Straße", ["strasse"]),
        ("GÉLÀTO Pokémon", ["gelato", "pokemon"]),
        ("강아지", ["강아지"]),
        ("ガラス", ["ガラス"]),  # a voicing mark is not an accent
        ("façade", ["facade"]),
        ("\u01c4", ["dz"]),  # one letter that decomposes into two and an accent
        ("\uff27\uff2f\uff2c\uff24", ["gold"]),  # full-width letters
        ("rock 'n' roll!", ["rock", "n", "roll"]),
        (" - ", []),
    ],
)
def test_normalised_words_fold_case_width_and_marks(text: str, words: list[str]) -> None:
    assert normalised_words(text) == words


@pytest.mark.parametrize(
    ("text", "confidence", "expected"),
    [
        ("GOLDEN", 0.9, True),
        ("xgoldex", 0.9, True),  # "golde" is five in a row
        ("gold", 0.9, False),  # four
        ("xgoldxx", 0.9, False),  # four at the start of "golden"
        ("xlden", 0.9, False),  # four at its end
        ("xxden", 0.9, False),  # three at its end
        ("xolden", 0.9, True),  # five at its end
        ("puppy", 0.9, True),  # all of a word of five
        ("golxen", 0.9, False),
        ("golden", 0.8, True),
        ("golden", 0.79, False),
        ("enret", 0.9, False),  # in the caption only across two words
        ("ICE CREAM", 0.9, True),  # "cream" is in "icecream"
        ("", 0.9, False),
    ],
)
def test_substring_rule_wants_five_in_a_row_inside_a_word(text: str, confidence: float, expected: bool) -> None:
    assert rule().matches(CAPTION, SpottedText(text, confidence)) is expected


@pytest.mark.parametrize(
    ("method", "text", "expected"),
    [
        ("Substring", "retxiever", True),  # "iever"
        ("Substring", "rexrixver", False),
        ("Positions", "rexrixver", True),  # seven of nine positions agree
        ("Positions", "revirter", False),
        ("Positions", "xxretri", True),  # shifted by two
        ("Positions", "ieverxx", True),  # five at the end of the word and the start of the text
        ("Positions", "everxxx", False),  # four there
        ("Positions", "xxxretr", False),  # four at the start of the word and the end of the text
        ("Positions", "puppy", True),
        ("Positions", "pupxy", False),  # four of five
        ("Positions", "puxxy", False),
    ],
)
def test_two_readings_differ_in_misread_characters(
    method: Literal["Substring", "Positions"], text: str, expected: bool
) -> None:
    assert rule(match=method).matches(CAPTION, SpottedText(text, 1.0)) is expected


@pytest.mark.parametrize(("text", "expected"), [("en ret", True), ("en re", False), ("- -", False)])
def test_match_across_words_when_asked_for(text: str, expected: bool) -> None:
    assert rule(acrossWords=True).matches(CAPTION, SpottedText(text, 1.0)) is expected


def test_thresholds_are_those_of_the_run() -> None:
    assert rule(minConfidence=0.5).matches(CAPTION, SpottedText("puppy", 0.5))
    assert rule(minMatchedCharacters=3).matches(CAPTION, SpottedText("pup", 1.0))
    assert not rule(minMatchedCharacters=7).matches(CAPTION, SpottedText("golden", 1.0))
