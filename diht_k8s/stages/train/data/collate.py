"""Collation of the global order into batches: decoded and augmented images, tokens, soft labels.

A collator is one of N readers: a rank without loader workers, or one worker of a rank. Its rows of a batch are consecutive ones
(`share`), so that readers read other lanes than their neighbours.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import open_clip
import torch
from torch import Tensor

from diht_k8s.data.shards.images import BadImageError, decode_pixels
from diht_k8s.data.shards.samples import caption_digest
from diht_k8s.stages.label.soft_labels import HeadLabels
from diht_k8s.stages.train.data.augment import drawn_caption, train_view
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.stages.train.data.dataset import LabelledSample, ShardDataset
from diht_k8s.stages.train.data.image_sizes import ImageSizes
from diht_k8s.stages.train.data.lane_reader import LaneReader
from diht_k8s.stages.train.data.normalisation import GREY
from diht_k8s.stages.train.data.sampler import LaneSampler

IMAGE_CACHE_BYTES = 512 << 20
"""Decoded images that a process keeps for the next epoch: a small set fits, a large one would gain nothing."""
FETCHERS = 8
"""Threads of a process that read the blocks of its next batch: at 25 ms a request and 3 MiB a block some 100 MB/s each."""


@dataclass(frozen=True)
class CollateSettings:
    """Source and form of the batches; the same for all collators of a training."""

    source: ShardDataset
    sampler: LaneSampler
    batch_size: int
    """of the global batch."""
    image_sizes: ImageSizes
    """side of the images in pixels, by batch."""
    context_length: int
    """tokens of a caption at most."""
    seed: int
    """of the augmentation and of the draw of captions."""
    draw_captions: bool = False
    """whether an epoch draws one of a pair's captions."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image."""

    pixels_CHW: Tensor
    problem: str | None
    """why the sample is bad."""


class Collator:
    """Makes one reader's parts of the batches."""

    def __init__(self, job: CollateSettings, *, rows: range, sharers: int = 1) -> None:
        """Make a collator; nothing is read yet.

        Args:
            job: what to make batches of.
            rows: of each batch that are made, at least one.
            sharers: number of collators of one process' memory, among which the cache of images is divided.
        """
        self._job, self._rows = job, rows
        self._tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=job.context_length)
        self._lanes: dict[int, tuple[int, LaneReader]] = {}
        """the epoch and what reads it, by lane; positions rise, so an older epoch is never read again."""
        self._fetchers = ThreadPoolExecutor(FETCHERS, "blocks")
        self._images: OrderedDict[tuple[int, int], DecodedImage] = OrderedDict()
        self._image_bytes, self._image_limit = 0, IMAGE_CACHE_BYTES // sharers

    def batch(self, start: int) -> Batch:
        """The reader's part of the global batch that begins at a position."""
        job = self._job
        positions = self._positions(start)
        self._fetch(positions)
        items = [self._item(position) for position in positions]
        self._fetch(self._positions(start + job.batch_size))
        captions = [self._caption(item, position) for item, position in zip(items, positions, strict=True)]
        seen_B, problems = (
            _stored(items) if job.source.features else self._views(items, positions, job.image_sizes.at(start))
        )
        return Batch(
            seen_B,
            self._tokenizer(captions),
            torch.tensor([_caption_id(caption_digest(caption)) for caption in captions]),
            _targets(items),
            [item.sample.uid for item in items],
            dict(Counter(problem for problem in problems if problem is not None)),
            dict(job.source.damaged),
            teacher_B2E=_embeddings(items),
        )

    def _views(
        self, items: Sequence[LabelledSample], positions: Sequence[int], side: int
    ) -> tuple[Tensor, list[str | None]]:
        """BxHxWxC augmented images of a side, and what is wrong with each."""
        job, images = self._job, [self._image(item) for item in items]
        pixels_BHWC = torch.empty((len(items), side, side, 3), dtype=torch.uint8)
        for place, position, item, image in zip(pixels_BHWC, positions, items, images, strict=True):
            epoch, _, _ = job.sampler.locate(position)
            view_CHW = train_view(image.pixels_CHW, side, seed=job.seed, epoch=epoch, uid=item.sample.uid)
            place.copy_(view_CHW.permute(1, 2, 0))
        return pixels_BHWC, [image.problem for image in images]

    def close(self) -> None:
        """End the threads that read ahead."""
        self._fetchers.shutdown(cancel_futures=True)

    def _positions(self, start: int) -> Sequence[int]:
        return self._job.sampler.positions(start, self._job.batch_size, self._rows)

    def _item(self, position: int) -> LabelledSample:
        epoch, lane, element = self._job.sampler.locate(position)
        return self._lane(epoch, lane, element).take(element)

    def _lane(self, epoch: int, lane: int, element: int) -> LaneReader:
        """The reader of a lane, from this element on at the latest."""
        at, reader = self._lanes.get(lane, (-1, None))
        if reader is None or at != epoch or reader.next > element:
            reader = LaneReader(self._job.source, self._job.sampler, epoch, lane, element)
            self._lanes[lane] = epoch, reader
        return reader

    def _fetch(self, positions: Sequence[int]) -> None:
        """Begin to read what a batch needs; where a lane begins its next epoch, that waits for its turn."""
        for position in positions:
            epoch, lane, element = self._job.sampler.locate(position)
            if lane not in self._lanes or self._lanes[lane][0] == epoch:
                self._lane(epoch, lane, element).fetch(element, self._fetchers)

    def _caption(self, item: LabelledSample, position: int) -> str:
        if not self._job.draw_captions:
            return item.sample.caption
        epoch, _, _ = self._job.sampler.locate(position)
        return drawn_caption(item.sample, seed=self._job.seed, epoch=epoch)

    def _image(self, item: LabelledSample) -> DecodedImage:
        """The decoded image; grey where the sample is bad, so that all ranks keep the same step."""
        key = (item.shard, item.index)
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        try:
            image = DecodedImage(decode_pixels(item.sample.image), item.sample.problem)
        except BadImageError as error:
            size = self._job.image_sizes.last
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


def surplus_rows(job: CollateSettings, rows: int, side: int) -> Batch:
    """Rows that hold no pair: grey images (or features of one), empty captions, no label, no embedding.

    Args:
        job: what the batches are made of, whose form they have.
        rows: how many, at least one.
        side: of the images in pixels.
    """
    source = job.source
    grey_HWC = torch.tensor(GREY, dtype=torch.uint8).expand(side, side, 3)
    seen = source.features[0].stand_in_W if source.features else grey_HWC
    tokens_BT = open_clip.tokenizer.SimpleTokenizer(context_length=job.context_length)([""] * rows)
    return Batch(
        seen.expand(rows, *seen.shape).clone(),
        tokens_BT,
        torch.full((rows,), -1),  # no digest is negative
        BatchTargets(_no_targets(rows), _no_targets(rows), torch.zeros(rows, dtype=torch.bool))
        if source.labelled
        else None,
        [],
        {},
        teacher_B2E=None
        if source.embeddings is None
        else source.embeddings.stand_in_W.expand(rows, -1).view(rows, 2, -1),
    )


def _no_targets(rows: int) -> HeadTargets:
    return HeadTargets(torch.full((rows, 1), -1), torch.zeros(rows, 1))


def _stored(items: Sequence[LabelledSample]) -> tuple[Tensor, list[str | None]]:
    """BxW stored features, and what is wrong with each image."""
    features_BW = torch.stack([item.features_W for item in items if item.features_W is not None])
    return features_BW, [item.sample.problem or item.problem for item in items]


def _embeddings(items: Sequence[LabelledSample]) -> Tensor | None:
    """A teacher's embeddings of images and captions, B x 2 x E."""
    rows = [item.embeddings_W for item in items if item.embeddings_W is not None]
    return torch.stack(rows).view(len(rows), 2, -1) if rows else None


def _targets(items: list[LabelledSample]) -> BatchTargets | None:
    rows = [(item.labels, item.row) for item in items if item.labels is not None]
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
