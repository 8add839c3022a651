"""Captions of the corpus, from templates. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from benchmarks.corpus.icon_sets import Style

COLOURS: Final[dict[str, str]] = {
    "black": "#1a1a1a",
    "grey": "#808080",
    "red": "#d32f2f",
    "orange": "#f57c00",
    "brown": "#795548",
    "green": "#388e3c",
    "blue": "#1976d2",
    "purple": "#7b1fa2",
    "pink": "#e91e8c",
    "teal": "#00897b",
}
GROUNDS: Final[dict[str, str]] = {
    "white": "#ffffff",
    "yellow": "#fff59d",
    "light blue": "#bbdefb",
    "light green": "#c8e6c9",
    "light grey": "#e0e0e0",
}
STYLES: Final[dict[Style, tuple[str, ...]]] = {
    "line": ("outline of {a}", "line drawing of {a}", "thin outlined icon showing {a}"),
    "solid": ("solid icon of {a}", "silhouette showing {a}", "filled sign with {a}"),
    "duotone": ("two-tone icon of {a}", "shaded icon showing {a}"),
    "colour": ("colourful drawing of {a}", "illustration showing {a}", "flat icon of {a}"),
    "emoji": ("emoji of {a}", "emoji showing {a}", "small cartoon of {a}"),
    "pixel": ("pixel art of {a}", "pixelated icon showing {a}"),
    "hand-drawn": ("sketch of {a}", "hand-drawn doodle showing {a}"),
}
VOWELS: Final = "aeiou"
Kind = Literal["colour", "ground", "neither"]
"""What a caption tells of the colours: that of the drawing, that of its ground alone, or none."""
_GROUND: Final = re.compile(rf" on an? (?:{'|'.join(GROUNDS)}) background$")
_COLOUR: Final = re.compile(rf"\b(?:{'|'.join([*COLOURS, 'white', 'yellow'])})\b")


@dataclass(frozen=True)
class Look:
    """What was drawn."""

    thing: str
    style: Style
    colour: str | None
    """name of the ink's colour; None where the drawing has its own."""
    ground: str
    tags: Sequence[str] = ()
    """other names."""


def captions_of(look: Look, rng: Random) -> list[str]:
    """Captions of one image, the one to train on first: the name in a sentence about its looks, with tags, and
    plain.
    """
    template = rng.choice(STYLES[look.style])
    head = template.format(a=with_article(look.thing))
    if look.colour is not None:
        head = f"{look.colour} {head}"
    ground = "" if look.ground == "white" else f" on {with_article(look.ground)} background"
    found = [f"{with_article(head)}{ground}", f"{look.thing}{ground}"]
    if look.tags:
        found.append(f"{with_article(look.thing)}, also called {' or '.join(look.tags[:2])}")
    rng.shuffle(found)
    return found


def with_article(words: str) -> str:
    """The words with "a" or "an"; plurals stay as they are."""
    last = words.rsplit(" ", 1)[-1]
    if (
        last.endswith("s")
        and not last.endswith(("ss", "us", "is"))
        and " of " not in words
        and " showing " not in words
    ):
        return words
    return f"{'an' if words[0] in VOWELS else 'a'} {words}"


def kind_of(caption: str) -> Kind:
    """`colour` where one is named outside of the words about the ground, even in a name such as "red cross"."""
    head = _GROUND.sub("", caption)
    if _COLOUR.search(head):
        return "colour"
    return "neither" if head == caption else "ground"
