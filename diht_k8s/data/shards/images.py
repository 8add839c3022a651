"""Images from untrusted bytes: header checked before anything is decoded, then RGB on white, upright, first frame."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from diht_k8s.data.shards.samples import Sample

FORMATS: Final = ("JPEG", "PNG", "WEBP")
MAX_PIXELS: Final = 25_000_000
"""A 100 KB file can claim 100,000 x 100,000 pixels; no web image that a 224-pixel model needs is this large."""
MIN_SIDE: Final = 8
"""Smaller images are tracking pixels and spacers."""

ImageFile.LOAD_TRUNCATED_IMAGES = False

Decoder = Callable[[bytes], Image.Image]


class BadImageError(ValueError):
    """The image cannot be used; `reason` is one of picture_unreadable, picture_too_large, picture_too_small."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes) -> Image.Image:
    """The image as upright RGB; transparency is laid on white, of animations the first frame is taken.

    Raises:
        BadImageError: unreadable, too large or too small.
    """
    return _decoded(data, _checked_upright)


def decode_as_reference(data: bytes) -> Image.Image:
    """The image as open_clip and clip-benchmark see it: converted to RGB as it is stored.

    Transparency is dropped, so that whatever colour lies under it shows; the EXIF orientation is not applied; the size
    is limited by Pillow alone.

    Raises:
        BadImageError: unreadable, or so large that Pillow takes it for an attack.
    """
    return _decoded(data, lambda image: image.convert("RGB"))


DECODERS: Final[Mapping[str, Decoder]] = {"Ours": decode, "Reference": decode_as_reference}
"""By their names in `evaluate.decode`."""


def _checked_upright(image: Image.Image) -> Image.Image:
    check_size(*image.size)
    ImageOps.exif_transpose(image, in_place=True)
    return _on_white(image)


def _decoded(data: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        return convert(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("picture_too_large") from error
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        MemoryError,
        IndexError,
        TypeError,
    ) as error:
        raise BadImageError("picture_unreadable") from error


def check_size(width: int, height: int) -> None:
    """Refuse images that would cost too much memory or show nothing."""
    if width * height > MAX_PIXELS:
        raise BadImageError("picture_too_large")
    if min(width, height) < MIN_SIDE:
        raise BadImageError("picture_too_small")


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8, which Pillow would clip to white; any other image as it is."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    image = in_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def images_of(
    samples: Iterable[Sample], wanted: Collection[str], decoder: Decoder = decode
) -> Iterator[tuple[str, Image.Image]]:
    """(uid, image) of the wanted samples of one shard that can be decoded, in order; stops at the last one."""
    left = set(wanted)
    for sample in samples:
        if sample.uid in left:
            left.remove(sample.uid)
            with contextlib.suppress(BadImageError):  # counted as bad when the shard was first read
                yield sample.uid, decoder(sample.image)
        if not left:
            return
