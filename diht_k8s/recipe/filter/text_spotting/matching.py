"""The T rule: does an image show its own caption? In: a caption and texts spotted in the image; out: yes or no. Pure.

Source: DiHT section 3.1 as remembered: a text of enough confidence of which at least five predicted characters match the
caption in a sliding window. "In a sliding window" can be read in two ways, and the run document offers both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

ACCENTS: Final = 200
"""Canonical combining classes from here on are marks above and below letters; lower ones carry meaning in Indic scripts."""


class SpottedText(NamedTuple):
    """One line of text in an image."""

    text: str
    """as recognised."""
    confidence: float
    """0 to 1, mean over the characters."""


@dataclass(frozen=True, kw_only=True)
class MatchRule:
    """When a spotted text counts as the caption's own."""

    min_confidence: float = 0.8
    """texts below it do not count."""
    min_characters: int = 5
    """so many letters or digits have to match."""
    method: Literal["Substring", "Positions"] = "Substring"
    """Substring: that many in a row occur in both. Positions: the spotted word is slid over the caption and equal places are
    counted, so that a misread character inside costs one place only."""
    across_words: bool = False
    """join words before matching. Off (our choice): across words, unrelated text matches by chance a third more often."""

    def matches(self, caption: str, text: SpottedText) -> bool:
        """Whether one spotted text shows a part of the caption."""
        if text.confidence < self.min_confidence:
            return False
        spotted = self._units(text.text)
        if not spotted:
            return False
        match = _share_substring if self.method == "Substring" else _share_positions
        return any(
            match(word, shown, self.min_characters) for word in self._units(caption) for shown in spotted if shown
        )

    def _units(self, text: str) -> list[str]:
        """Words long enough to match, or all of them joined."""
        words = normalised_words(text)
        units = ["".join(words)] if self.across_words else words
        return [unit for unit in units if len(unit) >= self.min_characters]


def shows_caption(caption: str, texts: Iterable[SpottedText], rule: MatchRule) -> bool:
    """Whether any of the texts shows a part of the caption."""
    return any(rule.matches(caption, text) for text in texts)


def normalised_words(text: str) -> list[str]:
    """Words after NFKC and case folding, letters and digits only, without accents: `Ice-cream №5` -> `icecream`, `no5`.

    Dropping accents is our choice: recognisers see some that are not there (GÉLATO), signs leave some out (POKEMON).
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in decomposed if unicodedata.combining(character) < ACCENTS)
    folded = unicodedata.normalize("NFKC", plain).casefold()
    words = ("".join(character for character in word if character.isalnum()) for word in folded.split())
    return [word for word in words if word]


def _share_substring(one: str, other: str, length: int) -> bool:
    return any(one[start : start + length] in other for start in range(len(one) - length + 1))


def _share_positions(one: str, other: str, count: int) -> bool:
    shifts = range(count - len(other), len(one) - count + 1)
    return any(
        sum(a == b for a, b in zip(one[max(shift, 0) :], other[max(-shift, 0) :], strict=False)) >= count
        for shift in shifts
    )
