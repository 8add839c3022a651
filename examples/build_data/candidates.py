"""What the two image sources have in common: one record for each image and its caption, and the drop counter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")  # noqa: RUF001  # a typographic apostrophe joins a word too


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An image that may become a pair of the data set."""

    source: str
    """Name of the source, as written in the JSON."""
    file: str
    """Path below the source's root without suffix; for emoji the code points. Unique within the source."""
    caption: str
    """The caption that the pair will carry."""
    names: tuple[str, ...]
    """Names of the thing itself (title, file name): what decides which images are variants of each other."""
    licence: str
    """SPDX-like name of the image's licence."""
    class_name: str | None
    """Zero-shot class, where the source's own folder or label tells."""
    boilerplate: bool
    """The caption is the title of a whole collection: noise that stays in the training part."""
    clean: bool
    """The caption describes the image in English: only such pairs are held out."""
    picture: Path | bytes
    """The encoded image, or where it lies."""


@dataclass(slots=True)
class Tally:
    """Counts of one source: what was seen, and what was left out for which reason."""

    seen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str) -> None:
        """Count one image that is left out."""
        self.dropped[reason] += 1

    @property
    def kept(self) -> int:
        """Images that no rule has left out."""
        return self.seen - sum(self.dropped.values())


def words_of(text: str) -> list[str]:
    """Words of a text, lower case, in order; underscores and hyphens separate."""
    return [word.lower().replace("’", "'") for word in WORD.findall(text)]  # noqa: RUF001


def normalised(text: str) -> str:
    """The form in which two captions count as the same: lower case, words only, single spaces."""
    return " ".join(words_of(text))


def vocabulary_of(texts: Iterable[str]) -> frozenset[str]:
    """All words that occur in the given texts."""
    return frozenset(word for text in texts for word in words_of(text))
