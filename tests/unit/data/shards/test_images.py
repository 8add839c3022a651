from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from diht_k8s.data.shards import images
from diht_k8s.data.shards.images import BadImageError, decode, decode_pixels
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
@pytest.mark.parametrize("decoder", [decode, decode_pixels])
def test_bad_image_has_its_reason(
    data: bytes, reason: str, decoder: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason != "picture_unreadable":
        monkeypatch.setattr("torchvision.io.decode_image", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(BadImageError) as raised:
        decoder(data)
    assert raised.value.reason == reason


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 15, 3), dtype=np.uint8)).resize((90, 70))
FAST = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "jpeg, full colour": encoded(PHOTO, "JPEG", subsampling=0, quality=95),
    "jpeg, progressive": encoded(PHOTO, "JPEG", progressive=True),
    "jpeg, odd size": encoded(PHOTO.crop((0, 0, 33, 21)), "JPEG"),
    "png": encoded(PHOTO, "PNG"),
    "webp": encoded(PHOTO, "WEBP"),
    "webp, lossless": encoded(PHOTO, "WEBP", lossless=True),
}
BY_PIL = {
    "jpeg, grey": encoded(PHOTO.convert("L"), "JPEG"),
    "jpeg, cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "jpeg, turned": rotated(),
    "png, transparent palette": palette_with_transparency(),
    "png, alpha": encoded(PHOTO.convert("RGBA"), "PNG"),
    "png, 16 bit": encoded(Image.new("I;16", (16, 16), 65535), "PNG"),
    "png, a colour is transparent": encoded(PHOTO, "PNG", transparency=(1, 2, 3)),
    "webp, animated": encoded(
        PHOTO, "WEBP", save_all=True, append_images=[PHOTO.transpose(Image.Transpose.ROTATE_180)], lossless=True
    ),
}


def verdict(function: object, data: bytes) -> object:
    """Pixels, or the reason why there are none."""
    try:
        result = function(data)  # type: ignore[operator]
    except BadImageError as error:
        return error.reason
    return np.asarray(result) if isinstance(result, Image.Image) else result.permute(1, 2, 0).numpy()


def same(data: bytes) -> bool:
    ours, theirs = verdict(decode_pixels, data), verdict(decode, data)
    return bool(np.array_equal(ours, theirs))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", FAST.values(), ids=FAST)
def test_usual_image_when_decoded_then_pils_pixels_without_pil(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(data)

    def refuse(data: bytes) -> Image.Image:
        raise AssertionError("PIL was asked")

    monkeypatch.setattr(images, "decode", refuse)
    found = decode_pixels(data)
    assert found.shape[0] == 3
    assert found.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("data", BY_PIL.values(), ids=BY_PIL)
def test_other_image_when_decoded_then_pils_pixels(data: bytes) -> None:
    assert same(data)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, with some bytes changed, or with some missing."""
    content, at = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(3)
    if kind == 0:
        del content[at:]
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 3, 10])):
            content[rng.randrange(len(content))] = rng.randrange(256)
    else:
        del content[at : at + rng.choice([1, 5, 50])]
    return bytes(content)


@pytest.mark.parametrize("data", FAST.values(), ids=FAST)
def test_damaged_image_when_decoded_then_pils_verdict(data: bytes) -> None:
    rng = random.Random(1)
    different = [copy for copy in (damaged(data, rng) for _ in range(60)) if not same(copy)]
    assert different == []


def test_interlaced_png_when_decoded_then_by_pil() -> None:
    content = bytearray(io.BytesIO(FAST["png"]).getvalue())
    content[28] = 1
    assert images._is_deep_or_interlaced(bytes(content))
