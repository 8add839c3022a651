"""Drawings of which no two are the same, and captions of them."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from PIL import Image

from tests.recipe.evaluate.small_run import COLOURS, SHAPES, draw

IMAGES = 24


@cache
def drawing(row: int, side: int = 48, *, mode: str = "RGB") -> Image.Image:
    """No two are the same; the colour goes round."""
    drawn = Image.open(io.BytesIO(draw(COLOURS[row % 6], SHAPES[row // 6 % 3], 5000 + row)))
    return drawn.resize((side, side)).convert(mode)


def save(path: Path, row: int, side: int = 48, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(row, side, mode=mode).save(path)


def two_captions(row: int) -> list[str]:
    """One or two, none twice: tools differ in what they do with ties."""
    return [f"a {COLOURS[row % 6]} thing, number {row}", f"one of many: {SHAPES[row // 6 % 3]} at {row}"][: 1 + row % 2]
