"""Random augmentation of a pair: RandomResizedCrop(0.9 to 1.0) of the image, choice of the caption.

What is drawn depends on (seed, epoch, uid) alone, so that it is the same on any worker and after any restart. Pixels
are those of PIL's bicubic filter (mean difference below 0.01 of 255), by torch's antialiased kernel on bytes.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Final

import numpy as np
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resized_crop

from diht_k8s.data.shards.samples import Sample, weighted_captions
from diht_k8s.stages.train.data.sampler import generator

# Shape legend: C channels (3), H height, W width.

SCALE: Final = (0.9, 1.0)
RATIO: Final = (3 / 4, 4 / 3)


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) as torchvision draws it: 90 to 100 % of the area, ratio 3/4 to 4/3."""
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


def train_view(pixels_CHW: Tensor, size: int, *, seed: int, epoch: int, uid: str) -> Tensor:
    """The training view of an RGB image: uint8, C x size x size."""
    height, width = pixels_CHW.shape[-2:]
    left, top, right, bottom = crop_box(width, height, generator(seed, "crop", epoch, uid))
    return resized_crop(
        pixels_CHW,
        top=top,
        left=left,
        height=bottom - top,
        width=right - left,
        size=[size, size],
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )


def drawn_caption(sample: Sample, *, seed: int, epoch: int) -> str:
    """One of the pair's captions, drawn by their weights; its own caption if it has no others.

    Args:
        sample: the pair.
        seed: of the run.
        epoch: from 0.
    """
    captions = weighted_captions(sample.meta) if sample.problem is None else []
    if not captions:
        return sample.caption
    if len(captions) == 1:
        return captions[0][0]
    sums = list(accumulate(weight for _, weight in captions))
    place = generator(seed, "caption", epoch, sample.uid).random() * sums[-1]
    return next((text for (text, _), end in zip(captions, sums, strict=True) if place < end), captions[-1][0])
