"""Names of icons as words: `calendar-add-24-filled` is "calendar add", drawn solid. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from benchmarks.corpus.icon_sets import STYLE_WORDS, Style

MAX_WORDS: Final = 5
NO_THING: Final = frozenset(
    [
        "logo",
        "brand",
        "brands",
        "letter",
        "digit",
        "number",
        "alphabet",
        "text",
        "keycap",
        "variant",
        "zodiac",
        "hexagram",
    ]
)
"""A name with one of these shows a sign and no thing."""
VARIANT: Final = re.compile(r"^(\d+px|\d+|v\d+|alt|small|rounded|sharp|ltr|rtl|off|on|negative|1x|2x)$")
"""Words at the end of a name that tell variants of one drawing apart."""
SKIN: Final = re.compile(r"[- ](?:(?:medium-)?(?:light|dark)|medium|default)(?:[- ]skin[- ]tone)?(?=[- ]|$)")
"""Skin tones in the names of emoji: half of all emoji are such variants, and one of each stays."""


@dataclass(frozen=True)
class IconName:
    """What the name of an icon says."""

    thing: str
    """words with blanks, lower case."""
    style: Style


def parse_name(name: str, style: Style, suffixes: Iterable[str] = (), prefixes: Iterable[str] = ()) -> IconName | None:
    """The thing and the style that a name tells; None if it names no thing.

    Args:
        name: of the icon, words joined by hyphens.
        style: of the set.
        suffixes: by which the set marks variants.
        prefixes: likewise.
    """
    rest, marks = _without_marks(name, suffixes, prefixes)
    if style == "emoji":
        rest = SKIN.sub("", rest)
    words = [word for word in rest.split("-") if word]
    while words and (
        VARIANT.match(words[-1]) or (style in ("line", "solid", "duotone", "pixel") and words[-1] in STYLE_WORDS)
    ):
        marks.append(words.pop())
    if style in ("line", "solid"):
        told: list[Style] = [STYLE_WORDS[mark] for mark in marks if mark in STYLE_WORDS]
        style = told[0] if told else style
    named = [word for word in words if not word.isdigit()]
    if not 1 <= len(named) <= MAX_WORDS or NO_THING & set(named) or not any(len(word) > 2 for word in named):
        return None
    if not all(word.isascii() and word.isalpha() for word in named):
        return None
    return IconName(" ".join(named), style)


def _without_marks(name: str, suffixes: Iterable[str], prefixes: Iterable[str]) -> tuple[str, list[str]]:
    """The name without the longest mark of a variant at each end, and the words of these marks."""
    marks: list[str] = []
    for mark in sorted(filter(None, suffixes), key=len, reverse=True):
        if name.endswith(f"-{mark}"):
            name = name[: -len(mark) - 1]
            marks += mark.split("-")
            break
    for mark in sorted(filter(None, prefixes), key=len, reverse=True):
        if name.startswith(f"{mark}-"):
            name = name[len(mark) + 1 :]
            marks += mark.split("-")
            break
    return name, marks
