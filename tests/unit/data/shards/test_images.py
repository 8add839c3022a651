from __future__ import annotations

import pytest
from PIL import Image

from diht_k8s.data.shards.images import BadImageError, decode
from tests.unit.data.shards.drawn import animated, encoded, palette_with_transparency, png_claiming, rotated


def close(got: tuple[int, ...], expected: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 12 for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("data", "size", "pixel", "color"),
    [
        (encoded(Image.new("RGB", (16, 12), "red"), "JPEG"), (16, 12), (5, 5), (254, 0, 0)),
        (encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), (16, 16), (5, 5), (254, 0, 0)),
        (encoded(Image.new("L", (16, 16), 7), "PNG"), (16, 16), (5, 5), (7, 7, 7)),
        (encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), "PNG"), (16, 16), (5, 5), (255, 255, 255)),
        (encoded(Image.new("LA", (16, 16), (0, 0)), "PNG"), (16, 16), (5, 5), (255, 255, 255)),
        (encoded(Image.new("I;16", (16, 16), 65535), "PNG"), (16, 16), (5, 5), (255, 255, 255)),
        (palette_with_transparency(), (16, 16), (12, 5), (255, 255, 255)),
        (palette_with_transparency(), (16, 16), (3, 5), (0, 0, 255)),
        (animated(), (16, 16), (5, 5), (255, 0, 0)),
        (rotated(), (10, 20), (5, 3), (0, 0, 254)),
    ],
    ids=[
        "rgb",
        "cmyk",
        "grey",
        "alpha",
        "grey alpha",
        "16 bit",
        "palette transparent",
        "palette opaque",
        "animated",
        "exif",
    ],
)
def test_image_becomes_upright_rgb_on_white(
    data: bytes, size: tuple[int, int], pixel: tuple[int, int], color: tuple[int, int, int]
) -> None:
    image = decode(data)
    got = image.getpixel(pixel)
    assert (image.mode, image.size) == ("RGB", size)
    assert isinstance(got, tuple)
    assert close(got, color)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "picture_unreadable"),
        (b"this is text named .jpg", "picture_unreadable"),
        (encoded(Image.new("RGB", (64, 64)), "PNG")[:60], "picture_unreadable"),
        (encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")[:800], "picture_unreadable"),
        (encoded(Image.new("RGB", (16, 16)), "GIF"), "picture_unreadable"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "picture_too_small"),
        (encoded(Image.new("RGB", (400, 1)), "PNG"), "picture_too_small"),
        (png_claiming(100_000, 100_000), "picture_too_large"),
        (png_claiming(6_000, 6_000), "picture_too_large"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "gif", "one pixel", "line", "bomb", "too many pixels"],
)
def test_bad_image_has_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError) as raised:
        decode(data)
    assert raised.value.reason == reason
