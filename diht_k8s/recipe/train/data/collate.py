"""Collates batches of the global order: decodes and augments images, tokenises captions, looks up soft labels.

A collator serves rank r of W. A worker of a rank is a collator too: number w of n workers serves rank r + wW of nW,
which takes every n-th row of the rank's batch, and reads other streams than its neighbours where nW divides their
number.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import open_clip
import torch
from torch import Tensor

from diht_k8s.recipe.label.soft_labels import HeadLabels
from diht_k8s.recipe.shards.images import BadImageError
from diht_k8s.recipe.shards.pixels import decode_pixels
from diht_k8s.recipe.train.data.augment import train_view
from diht_k8s.recipe.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.recipe.train.data.dataset import LabelledSample, ShardDataset
from diht_k8s.recipe.train.data.sampler import GlobalSampler

IMAGE_CACHE_BYTES = 512 << 20
"""Decoded images that a process keeps for the next epoch: a small set fits, a large one would gain nothing."""
GREY = (123, 117, 104)
"""OpenAI's mean in bytes: replaces an image that cannot be used."""


@dataclass(frozen=True)
class CollateSettings:
    """What to make batches of; the same for all assemblers of a training."""

    source: ShardDataset
    sampler: GlobalSampler
    batch_size: int
    """of the global batch; a multiple of the number of ranks."""
    image_size: int
    """side of the images in pixels."""
    context_length: int
    """tokens of a caption at most."""
    seed: int
    """of the augmentation."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image."""

    pixels_CHW: Tensor
    problem: str | None
    """why the sample is bad."""


class Collator:
    """Makes one rank's batches."""

    def __init__(self, job: CollateSettings, *, rank: int, world: int, sharers: int = 1) -> None:
        """Make a collator; nothing is read yet.

        Args:
            job: what to make batches of.
            rank: whose batches.
            world: number of ranks.
            sharers: number of collators of one process' memory, among which the cache of images is divided.
        """
        self._job, self._rank, self._world = job, rank, world
        self._tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=job.context_length)
        self._streams: dict[tuple[int, int], Iterator[LabelledSample]] = {}
        self._next_element: dict[tuple[int, int], int] = {}
        self._images: OrderedDict[tuple[int, int], DecodedImage] = OrderedDict()
        self._image_bytes, self._image_limit = 0, IMAGE_CACHE_BYTES // sharers

    def batch(self, start: int) -> Batch:
        """The rank's part of the global batch that begins at a position."""
        job = self._job
        positions = range(start + self._rank, start + job.batch_size, self._world)
        items = [self._item(position) for position in positions]
        images = [self._image(item) for item in items]
        pixels_BHWC = torch.empty((len(items), job.image_size, job.image_size, 3), dtype=torch.uint8)
        for place, position, item, image in zip(pixels_BHWC, positions, items, images, strict=True):
            epoch, _, _ = job.sampler.locate(position)
            view_CHW = train_view(image.pixels_CHW, job.image_size, seed=job.seed, epoch=epoch, uid=item.sample.uid)
            place.copy_(view_CHW.permute(1, 2, 0))
        return Batch(
            pixels_BHWC,
            self._tokenizer([item.sample.caption for item in items]),
            torch.tensor([_caption_id(item.sample.caption_sha256) for item in items]),
            _targets(items),
            [item.sample.uid for item in items],
            dict(Counter(image.problem for image in images if image.problem is not None)),
            dict(job.source.damaged),
        )

    def _item(self, position: int) -> LabelledSample:
        epoch, stream, element = self._job.sampler.locate(position)
        key = (epoch, stream)
        behind = element - self._next_element.get(key, element + 1)
        if behind < 0:
            self._streams[key] = self._read_stream(epoch, stream, element)
            for old in [old for old in self._streams if old[0] < epoch]:  # positions rise, so it is never read again
                del self._streams[old], self._next_element[old]
        for _ in range(behind):  # skip other ranks' elements of a shared stream
            next(self._streams[key])
        self._next_element[key] = element + 1
        return next(self._streams[key])

    def _read_stream(self, epoch: int, stream: int, skip: int) -> Iterator[LabelledSample]:
        pieces = []
        for piece in self._job.sampler.stream_slices(epoch, stream):
            if skip < len(piece.indexes):
                pieces.append(replace(piece, indexes=piece.indexes[skip:]))
            skip = max(skip - len(piece.indexes), 0)
        return self._job.source.stream(pieces)

    def _image(self, item: LabelledSample) -> DecodedImage:
        """The decoded image; grey where the sample is bad, so that all ranks keep the same step."""
        key = (item.shard, item.index)
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        try:
            image = DecodedImage(decode_pixels(item.sample.image), item.sample.problem)
        except BadImageError as error:
            size = self._job.image_size
            grey_CHW = torch.tensor(GREY, dtype=torch.uint8).view(3, 1, 1).expand(3, size, size)
            image = DecodedImage(grey_CHW, item.sample.problem or error.reason)
        self._remember(key, image)
        return image

    def _remember(self, key: tuple[int, int], image: DecodedImage) -> None:
        self._images[key] = image
        self._image_bytes += image.pixels_CHW.numel()
        while self._image_bytes > self._image_limit:
            _, dropped = self._images.popitem(last=False)
            self._image_bytes -= dropped.pixels_CHW.numel()


def _targets(items: list[LabelledSample]) -> BatchTargets | None:
    rows = [(item.labels, item.index) for item in items if item.labels is not None]
    if not rows:
        return None
    return BatchTargets(
        _head_targets([(labels.objects, row) for labels, row in rows]),
        _head_targets([(labels.attributes, row) for labels, row in rows]),
        torch.tensor([bool(labels.has_label_N[row]) for labels, row in rows]),
    )


def _head_targets(rows: list[tuple[HeadLabels, int]]) -> HeadTargets:
    return HeadTargets(
        torch.from_numpy(np.stack([head.ids_NK[row] for head, row in rows])),
        torch.from_numpy(np.stack([head.probabilities_NK[row] for head, row in rows])),
    )


def _caption_id(digest: str) -> int:
    return int(digest[:15], 16)
