from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diht_k8s.stages.train.data.augment import crop_box, train_view
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation, normalised
from diht_k8s.stages.train.data.sampler import generator


@pytest.mark.parametrize(("width", "height"), [(96, 96), (96, 64), (40, 200), (8, 8), (1000, 9)])
def test_crop_lies_inside_and_covers_most_of_the_image(width: int, height: int) -> None:
    for draw in range(50):
        left, top, right, bottom = crop_box(width, height, generator(draw, "test"))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if 3 / 4 <= width / height <= 4 / 3 and min(width, height) > 50:
            assert (right - left) * (bottom - top) >= 0.85 * width * height


def test_crops_when_many_are_drawn_then_from_nine_tenths_to_all_of_the_image_wider_and_taller() -> None:
    boxes = [crop_box(200, 200, generator(draw, "test")) for draw in range(300)]
    areas = [(right - left) * (bottom - top) / 200**2 for left, top, right, bottom in boxes]
    ratios = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
    assert 0.89 <= min(areas) < 0.91
    assert 0.97 < max(areas) <= 1
    assert 0.89 <= min(ratios) < 0.95
    assert 1.05 < max(ratios) <= 1.12


def noise(width: int, height: int) -> Image.Image:
    """An image with detail at all scales."""
    small = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return Image.blend(smooth, Image.effect_noise((width, height), 60).convert("RGB"), 0.3)


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (512, 384), (1024, 768), (96, 96), (40, 200)])
def test_view_has_the_pixels_that_pil_gives(width: int, height: int) -> None:
    image, size = noise(width, height), 224 if width > 100 else 64
    view = train_view(pixels_of(image), size, seed=1, epoch=2, uid="a").permute(1, 2, 0).numpy().astype(int)
    box = crop_box(width, height, generator(1, "crop", 2, "a"))
    pil = np.asarray(image.crop(box).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(view - pil).mean() <= 0.01
    assert np.abs(view - pil).max() <= 1


def test_view_depends_on_seed_epoch_and_uid_only() -> None:
    image = pixels_of(noise(96, 80))
    same = [train_view(image, 32, seed=1, epoch=2, uid="a") for _ in range(2)]
    assert (same[0] == same[1]).all()
    assert same[0].shape == (3, 32, 32)
    for other in (
        {"seed": 2, "epoch": 2, "uid": "a"},
        {"seed": 1, "epoch": 3, "uid": "a"},
        {"seed": 1, "epoch": 2, "uid": "b"},
    ):
        assert (train_view(image, 32, **other) != same[0]).any()


@pytest.mark.parametrize("of", [CLIPS, Normalisation((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))])
def test_pixels_are_normalised_by_mean_and_deviation(of: Normalisation) -> None:
    pixels = torch.full((2, 4, 4, 3), 255, dtype=torch.uint8)
    tensor = normalised(pixels, of=of)
    assert tensor.shape == (2, 3, 4, 4)
    for channel in range(3):
        assert float(tensor[0, channel, 0, 0]) == pytest.approx((1 - of.mean[channel]) / of.std[channel], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_when_normalised_in_a_lower_precision_then_fp32_rounded_once_and_channels_last(
    dtype: torch.dtype,
) -> None:
    pixels = torch.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3).to(torch.uint8)
    images_BCHW = normalised(pixels, dtype)
    assert images_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images_BCHW, normalised(pixels).to(dtype))
