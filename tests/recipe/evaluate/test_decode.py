"""Images as our rules or as the reference tools see them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from diht_k8s.data.shards.images import MAX_PIXELS, BadImageError, decode, decode_as_reference


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def transparent() -> bytes:
    """A red disc's worth of pixels on fully transparent black."""
    pixels = np.zeros((16, 16, 4), dtype=np.uint8)
    pixels[4:12, 4:12] = (255, 0, 0, 255)
    return encoded(Image.fromarray(pixels))


def turned() -> bytes:
    """A wide JPEG that EXIF says to turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (32, 16), "blue"), "JPEG", exif=exif)


def test_decode_when_transparent_lays_on_white_or_keeps_what_is_stored() -> None:
    data = transparent()
    assert decode(data).getpixel((0, 0)) == (255, 255, 255)
    assert decode_as_reference(data).getpixel((0, 0)) == (0, 0, 0)
    theirs = Image.open(io.BytesIO(data)).convert("RGB")  # what open_clip's transform begins with
    assert decode_as_reference(data).tobytes() == theirs.tobytes()


def test_decode_when_exif_turns_it_is_upright_or_as_stored() -> None:
    assert (decode(turned()).size, decode_as_reference(turned()).size) == ((16, 32), (32, 16))


def test_decode_when_larger_than_our_limit_is_refused_or_taken() -> None:
    data = encoded(Image.new("1", (MAX_PIXELS // 5000 + 1, 5000)))
    with pytest.raises(BadImageError, match="picture_too_large"):
        decode(data)
    assert decode_as_reference(data).mode == "RGB"


@pytest.mark.parametrize("read", [decode, decode_as_reference])
def test_decode_when_unreadable_says_so(read: object) -> None:
    assert callable(read)
    with pytest.raises(BadImageError, match="picture_unreadable"):
        read(b"no image")
