from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diht_k8s.recipe.training.augment import MEAN, STD, crop_box, to_tensor, train_pixels
from diht_k8s.recipe.training.order import generator


@pytest.mark.parametrize(("width", "height"), [(96, 96), (96, 64), (40, 200), (8, 8), (1000, 9)])
def test_crop_lies_inside_and_covers_most_of_the_picture(width: int, height: int) -> None:
    for draw in range(50):
        left, top, right, bottom = crop_box(width, height, generator(draw, "test"))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if 3 / 4 <= width / height <= 4 / 3 and min(width, height) > 50:
            assert (right - left) * (bottom - top) >= 0.85 * width * height


def test_view_depends_on_seed_epoch_and_uid_only() -> None:
    image = Image.effect_noise((96, 80), 80).convert("RGB")
    same = [train_pixels(image, 32, seed=1, epoch=2, uid="a") for _ in range(2)]
    assert (same[0] == same[1]).all()
    assert same[0].shape == (32, 32, 3)
    for other in (
        {"seed": 2, "epoch": 2, "uid": "a"},
        {"seed": 1, "epoch": 3, "uid": "a"},
        {"seed": 1, "epoch": 2, "uid": "b"},
    ):
        assert (train_pixels(image, 32, **other) != same[0]).any()


def test_pixels_are_normalised_by_openais_mean_and_deviation() -> None:
    pixels = np.full((2, 4, 4, 3), 255, np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (2, 3, 4, 4)
    for channel in range(3):
        assert float(tensor[0, channel, 0, 0]) == pytest.approx((1 - MEAN[channel]) / STD[channel], rel=1e-5)
