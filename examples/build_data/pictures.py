"""Images: any encoded image in, a small RGB image on white out; and the measures of likeness of two images.

Shapes: N images, D numbers of a thumbnail.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

SIDE = 96
QUALITY = 78
MAX_SOURCE_SIDE = 16_000
MAX_SOURCE_PIXELS = 80_000_000
MIN_SIDE = 8
INK = 12  # a pixel this far from white in one channel belongs to the drawing
MIN_INK_SHARE = 0.004
THUMBNAIL = 16


class RejectedImageError(Exception):
    """The image is not used; the message is the reason under which it is counted."""


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _ink(image: Image.Image) -> Image.Image:
    """Mask of the pixels that differ from white."""
    distance = ImageChops.invert(image)
    red, green, blue = distance.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return brightest.point([255 if value >= INK else 0 for value in range(256)])


def allow_large_headers() -> None:
    """Let Pillow open files of any size: `small_picture` looks at the size itself, before it decodes anything."""
    Image.MAX_IMAGE_PIXELS = None


def small_picture(picture: Path | bytes) -> Image.Image:
    """Decode, lay on white, cut the empty border off and shrink to 96 px at the longest side (never enlarge).

    Raises:
        RejectedImageError: the image is blank, too large, too small or too narrow.
    """
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        if max(image.size) > MAX_SOURCE_SIDE:
            raise RejectedImageError("side_over_16000_px")
        if image.width * image.height > MAX_SOURCE_PIXELS:
            raise RejectedImageError("over_80_megapixels")
        if min(image.size) < MIN_SIDE:
            raise RejectedImageError("side_under_8_px")
        flat = _on_white(image)
    drawing = flat.crop(_ink(flat).getbbox())  # a blank image has no box, stays whole and is found below
    drawing.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if min(drawing.size) < MIN_SIDE:
        raise RejectedImageError("side_under_8_px")
    if np.count_nonzero(np.asarray(_ink(drawing))) < MIN_INK_SHARE * drawing.width * drawing.height:
        raise RejectedImageError("blank")
    return drawing


def encode(image: Image.Image) -> bytes:
    """WebP bytes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def pixel_digest(image: Image.Image) -> str:
    """Digest of the pixels: equal for exact duplicates."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """Darkness of a 16 x 16 thumbnail on a white square, flat: shape (768,), 0 is white, 1 is black."""
    square = ImageOps.pad(image, (SIDE, SIDE), color="white").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.float32(1) - np.asarray(square, dtype=np.float32).ravel() / np.float32(255)


def near_duplicates(thumbnails_ND: NDArray[np.float32], *, limit: float) -> list[tuple[int, int]]:
    """Pairs of images whose thumbnails differ by less than `limit` of the ink that the two have together.

    The difference is relative, because thin drawings on white are all close to each other in absolute terms.

    Args:
        thumbnails_ND: output of `thumbnail`, one row an image.
        limit: largest |a - b| / (|a| + |b|), Euclidean.
    """
    norms_N = np.linalg.norm(thumbnails_ND, axis=1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(thumbnails_ND), 1024):
        block_BD = thumbnails_ND[start : start + 1024]
        block_norms_B = norms_N[start : start + 1024]
        squares_BN = block_norms_B[:, None] ** 2 + norms_N[None] ** 2 - 2 * (block_BD @ thumbnails_ND.T)
        distance_BN = np.sqrt(np.maximum(squares_BN, 0))
        close_BN = distance_BN < limit * (block_norms_B[:, None] + norms_N[None])
        rows, columns = np.nonzero(close_BN)
        pairs += [(start + int(r), int(c)) for r, c in zip(rows, columns, strict=True) if start + r < c]
    return pairs
