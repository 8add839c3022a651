"""The split of the corpus by concept and style. Pure.

Variants of a concept stay together: its base name is hashed without colours, sizes, directions, genders.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from benchmarks.corpus.icon_sets import DEVELOPMENT_STYLE, HELD_OUT_STYLE, Style

Split = Literal["train", "development", "development_style", "heldout_concepts", "heldout_style", "measured_only"]
"""`measured_only` is no split of the corpus: drawings of `unseen.py`."""
SPLITS: Final[tuple[Split, ...]] = ("train", "development", "development_style", "heldout_concepts", "heldout_style")
DEVELOPMENT_PERCENT: Final = 4
HELD_OUT_PERCENT: Final = 8
GALLERY: Final = 1000
"""pairs of a gallery, one of each concept."""


def percentile(concept: str) -> int:
    """A number from 0 to 99 that depends on the concept alone."""
    return int.from_bytes(hashlib.sha256(f"concept {concept}".encode()).digest()[:8], "big") % 100


def split_of(concept: str, style: Style) -> Split | None:
    """The split of a drawing; None for those in no split (a held-out style of a concept that training lacks).

    Args:
        concept: base name of the thing.
        style: of the drawing.
    """
    place = percentile(concept)
    trained = place >= DEVELOPMENT_PERCENT + HELD_OUT_PERCENT
    if style in (HELD_OUT_STYLE, DEVELOPMENT_STYLE):
        if not trained:
            return None
        return "heldout_style" if style == HELD_OUT_STYLE else "development_style"
    if trained:
        return "train"
    return "development" if place < DEVELOPMENT_PERCENT else "heldout_concepts"
