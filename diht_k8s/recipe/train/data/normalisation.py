"""Normalisation of images by OpenAI's mean and deviation, on their device."""

from __future__ import annotations

import functools
from typing import Final

import torch
from torch import Tensor

# Shape legend: B batch, C channels (3), H height, W width.

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)


@functools.cache
def _rows(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a row of pixels; `torch.tensor(..., device=...)` would wait for the device each time."""
    mean, std = ((torch.tensor(value) * 255).repeat(width).to(device, non_blocking=True) for value in (MEAN, STD))
    return mean, std


def normalised(pixels_BHWC: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images B x C x H x W (channels last in memory) of uint8 pixels, on their device: computed in fp32, then rounded."""
    batch, height, width, channels = pixels_BHWC.shape
    # whole rows instead of a last dimension of 3, which no kernel vectorises
    mean_row, std_row = _rows(width, pixels_BHWC.device)
    rows = pixels_BHWC.reshape(batch, height, width * channels)
    if pixels_BHWC.device.type == "cpu":  # image by image: three times as fast, because each stays in the cache
        images = torch.empty(rows.shape, dtype=dtype)
        wide = torch.empty(rows.shape[1:])
        for row, image in zip(rows, images, strict=True):
            torch.div(torch.sub(row, mean_row, out=wide), std_row, out=image)
    else:
        images = torch.sub(rows, mean_row).div_(std_row).to(dtype)
    return images.view(batch, height, width, channels).permute(0, 3, 1, 2)
