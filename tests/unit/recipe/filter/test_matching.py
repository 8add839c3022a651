from __future__ import annotations

from typing import Literal

import pytest

from diht_k8s.recipe.filter.text_spotting.matching import MatchRule, SpottedText, normalised_words, shows_caption

CAPTION = "Golden retriever puppy, Ice-cream No. 5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ice-cream No. 5", ["icecream", "no", "5"]),
        ("Straße", ["strasse"]),
        ("GÉLÀTO Pokémon", ["gelato", "pokemon"]),
        ("강아지", ["강아지"]),
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
        ("golxen", 0.9, False),
        ("golden", 0.8, True),
        ("golden", 0.79, False),
        ("enret", 0.9, False),  # in the caption only across two words
        ("ICE CREAM", 0.9, True),  # "cream" is in "icecream"
        ("", 0.9, False),
    ],
)
def test_substring_rule_wants_five_in_a_row_inside_a_word(text: str, confidence: float, expected: bool) -> None:
    assert MatchRule().matches(CAPTION, SpottedText(text, confidence)) is expected


@pytest.mark.parametrize(
    ("method", "text", "expected"),
    [
        ("Substring", "retxiever", True),  # "iever"
        ("Substring", "rexrixver", False),
        ("Positions", "rexrixver", True),  # seven of nine places agree
        ("Positions", "revirter", False),
        ("Positions", "xxretri", True),  # shifted by two
        ("Positions", "puxxy", False),
    ],
)
def test_two_readings_differ_in_misread_characters(
    method: Literal["Substring", "Positions"], text: str, expected: bool
) -> None:
    assert MatchRule(method=method).matches(CAPTION, SpottedText(text, 1.0)) is expected


def test_match_across_words_when_asked_for() -> None:
    assert MatchRule(across_words=True).matches(CAPTION, SpottedText("en ret", 1.0))


def test_number_of_characters_is_the_rules() -> None:
    assert MatchRule(min_characters=3).matches(CAPTION, SpottedText("pup", 1.0))
    assert not MatchRule(min_characters=7).matches(CAPTION, SpottedText("golden", 1.0))


def test_shows_caption_when_any_text_matches() -> None:
    texts = [SpottedText("other", 1.0), SpottedText("puppy", 0.95)]
    assert shows_caption(CAPTION, texts, MatchRule())
    assert not shows_caption(CAPTION, texts[:1], MatchRule())
