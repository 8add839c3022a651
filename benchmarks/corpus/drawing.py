"""Draws an icon: SVG in, a small image in named colours out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops

SIDE: Final = 64
MARGIN: Final = 4
"""pixels of ground around the drawing."""
QUALITY: Final = 80
MIN_INK_SHARE: Final = 0.01
INK: Final = 16
"""a pixel so far from the ground in one channel belongs to the drawing."""


class NotDrawnError(Exception):
    """The icon cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Icon:
    """An icon before it is drawn."""

    body: str
    """content of the <svg>."""
    box: tuple[float, float, float, float]
    """left, top, width and height of the viewBox."""


def svg_of(icon: Icon, colour: str) -> str:
    """The whole document; `currentColor` is the colour."""
    left, top, width, height = icon.box
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" color="{colour}">{icon.body}</svg>'
    )


def draw(icon: Icon, *, colour: str, ground: str) -> Image.Image:
    """The drawing on a square of SIDE pixels, RGB.

    Args:
        icon: what to draw.
        colour: of the ink, `#rrggbb`, for drawings without colours of their own.
        ground: colour behind it.

    Raises:
        NotDrawnError: the SVG cannot be read, or nothing of it shows.
    """
    import resvg_py

    _, _, width, height = icon.box
    inner = SIDE - 2 * MARGIN
    wide = width >= height
    try:
        data = resvg_py.svg_to_bytes(
            svg_string=svg_of(icon, colour),
            skip_system_fonts=True,
            width=inner if wide else None,
            height=None if wide else inner,
        )
    except ValueError:
        raise NotDrawnError("svg_unreadable") from None
    with Image.open(io.BytesIO(bytes(data))) as drawn:
        layer = drawn.convert("RGBA")
    layer.thumbnail((inner, inner))
    square = Image.new("RGBA", (SIDE, SIDE), ground)
    square.alpha_composite(layer, ((SIDE - layer.width) // 2, (SIDE - layer.height) // 2))
    image = square.convert("RGB")
    bands = ImageChops.difference(image, Image.new("RGB", image.size, ground)).split()
    brightest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    if sum(brightest.histogram()[INK:]) < MIN_INK_SHARE * SIDE * SIDE:
        raise NotDrawnError("blank")
    return image


def encode(image: Image.Image) -> bytes:
    """WebP bytes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()
