"""Batches of an arm: order, crops and tokens depend on the seed alone.

Shapes: N pairs of a pool, B of a batch, S samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.ablation.pools import Pairs
from diht_k8s.stages.train.data.augment import crop_box
from diht_k8s.stages.train.data.normalisation import CLIPS
from diht_k8s.stages.train.data.rng import generator


class Tokens:
    """Captions to packed token numbers, in the tokenizer's order, so that the end token stays the highest."""

    def __init__(self, captions: Sequence[str], context_length: int) -> None:
        self._tokenizer: Any = open_clip.tokenizer.SimpleTokenizer(context_length=context_length)
        self._known = torch.unique(self._tokenizer(list(captions)))

    @property
    def size(self) -> int:
        """Numbers in use."""
        return len(self._known)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Packed numbers, one row a caption; all of them must have been known at the start."""
        return torch.searchsorted(self._known, self._tokenizer(list(captions)))


@dataclass(frozen=True)
class Course:
    """The images of a whole training in order."""

    rows_S: NDArray[np.int64]
    pixels_SHWC: NDArray[np.uint8]
    tokens_NT: Tensor
    caption_ids_N: Tensor

    def batch(self, start: int, size: int) -> tuple[NDArray[np.int64], Tensor, Tensor, Tensor]:
        """Rows, images, tokens and caption numbers of one step."""
        rows_B = self.rows_S[start : start + size]
        return (
            rows_B,
            _normalised(self.pixels_SHWC[start : start + size]),
            self.tokens_NT[rows_B],
            self.caption_ids_N[rows_B],
        )


def make_course(pairs: Pairs, tokens: Tokens, *, samples: int, image_size: int, seed: int) -> Course:
    """Epoch after epoch in a new order, each image with a new crop."""
    epochs = -(-samples // len(pairs))
    orders = [generator(seed, "order", epoch).permutation(len(pairs)) for epoch in range(epochs)]
    rows_S = np.concatenate(orders)[:samples]
    pixels_SHWC = np.empty((samples, image_size, image_size, 3), np.uint8)
    for place, row in enumerate(rows_S):
        epoch = place // len(pairs)
        image = pairs.images[row]
        box = crop_box(image.width, image.height, generator(seed, "crop", epoch, pairs.uids[row]))
        pixels_SHWC[place] = np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box))
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(pairs.captions))}
    caption_ids_N = torch.tensor([numbers[caption] for caption in pairs.captions])
    return Course(rows_S, pixels_SHWC, tokens(pairs.captions), caption_ids_N)


def _normalised(pixels_BHWC: NDArray[np.uint8]) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in CLIPS)
    return (torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() - mean) / std


def test_images(images: Sequence[Image.Image], size: int) -> Tensor:
    """Images as evaluation sees them: shorter side to `size`, bicubic, centre crop."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform: Any = image_transform_v2(PreprocessCfg(size=size), is_train=False)
    return torch.stack([transform(image) for image in images])
