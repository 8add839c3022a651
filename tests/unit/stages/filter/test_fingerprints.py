from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diht_k8s.stages.filter.fingerprints import gallery_of
from tests.recipe.filter.shards import encoded


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Smooth brightness with some shapes on it, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    for _ in range(4):
        x, y = (int(rng.integers(0, side - 40)) for side in size)
        ImageDraw.Draw(image).ellipse((x, y, x + 36, y + 30), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return image


GALLERY = gallery_of(encoded(scene(seed)) for seed in range(20))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.resize((80, 60), Image.Resampling.BILINEAR),
        lambda image: image.resize((300, 200), Image.Resampling.BICUBIC),
        lambda image: Image.open(io.BytesIO(encoded(image, "JPEG", quality=40))),
        lambda image: image.point(lambda value: min(255, int(value * 1.1))),
    ],
    ids=["same", "smaller", "larger and stretched", "as JPEG", "brighter"],
)
def test_near_duplicate_is_found(change) -> None:
    assert all(GALLERY.holds(change(scene(seed))) for seed in range(20))


def test_other_images_are_not_found() -> None:
    assert not any(GALLERY.holds(scene(seed)) for seed in range(100, 200))


def test_empty_images_match_no_image() -> None:
    blank = Image.new("RGB", (64, 64), "white")
    assert not gallery_of([encoded(blank)]).holds(blank)


def test_gallery_skips_unreadable_images() -> None:
    assert len(gallery_of([b"no picture", b"", encoded(scene(1))]).bits) == 1
    assert not gallery_of([]).holds(scene(1))
