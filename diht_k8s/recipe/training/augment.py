"""Pictures to tensors: RandomResizedCrop(0.9 to 1.0) in training, resize and centre crop in evaluation; OpenAI's mean and deviation.

The crop of a picture depends on (seed, epoch, uid) alone, so that it is the same on any worker and after any restart.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diht_k8s.recipe.training.order import generator

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
SCALE: Final = (0.9, 1.0)
RATIO: Final = (3 / 4, 4 / 3)


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) of 90 to 100 % of the area with a side ratio of 3/4 to 4/3, as torchvision draws it."""
    for _ in range(10):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_pixels(image: Image.Image, size: int, *, seed: int, epoch: int, uid: str) -> np.ndarray:
    """The training view of an RGB picture: size x size x 3, uint8."""
    box = crop_box(*image.size, generator(seed, "crop", epoch, uid))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def to_tensor(pixels_BHWC: np.ndarray) -> Tensor:
    """Normalised fp32 pictures BxCxHxW (channels last in memory) from uint8 pixels."""
    images_BCHW = torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1) * 255, torch.tensor(STD).view(1, 3, 1, 1) * 255
    return (images_BCHW - mean) / std
