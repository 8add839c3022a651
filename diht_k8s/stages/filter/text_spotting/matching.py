"""The T rule, by which an image shows its own caption: caption and spotted texts in, yes or no out.

Source: DiHT section 3.1 as we recall it: a text matches if its confidence is high enough and at least five of its
predicted characters match the caption in a sliding window. "In a sliding window" has two readings, and the run document
offers both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

ACCENTS: Final = 200
"""Lowest canonical combining class of the marks above and below letters. Lower classes carry meaning (kana, Indic
scripts).
"""


class SpottedText(NamedTuple):
    """One line of text in an image."""

    text: str
    """as recognised."""
    confidence: float
    """mean over the characters, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class MatchRule:
    """When a spotted text counts as part of the caption. The API holds the defaults (`TextSpotting`)."""

    min_confidence: float
    """texts with a lower confidence do not count."""
    min_characters: int
    """number of letters and digits that must match."""
    method: Literal["Substring", "Positions"]
    """Substring: the characters occur in a row in both words. Positions: the spotted word slides over the word of the
    caption and equal positions are counted, so a misread character costs only one position.
    """
    across_words: bool
    """join the words before matching. Off by default (our choice): unrelated texts then match by chance a third more
    often.
    """

    def matches(self, caption: str, text: SpottedText) -> bool:
        """Whether one spotted text shows part of the caption."""
        if text.confidence < self.min_confidence:
            return False
        spotted = self._units(text.text)
        if not spotted:  # most texts are too short, and normalising the caption takes time
            return False
        match = _share_substring if self.method == "Substring" else _share_positions
        return any(match(word, shown, self.min_characters) for word in self._units(caption) for shown in spotted)

    def _units(self, text: str) -> list[str]:
        """The words that are long enough to match, or all words joined."""
        words = normalised_words(text)
        units = ["".join(words)] if self.across_words else words
        return [unit for unit in units if len(unit) >= self.min_characters]


def shows_caption(caption: str, texts: Iterable[SpottedText], rule: MatchRule) -> bool:
    """Whether any of the texts shows part of the caption."""
    return any(rule.matches(caption, text) for text in texts)


def normalised_words(text: str) -> list[str]:
    """Words after NFKC and case folding, without accents, reduced to letters and digits.

    `Ice-cream №5` becomes `icecream`, `no5`. Dropping accents is our choice: recognisers invent some (GÉLATO), and
    signs omit some (POKEMON).
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
