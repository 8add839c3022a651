"""Collation of the global order into batches: decoded and augmented images, tokens, soft labels.

A collator is one of N readers: a rank without loader workers, or one worker of a rank. Its rows of a batch are
consecutive ones (`share`), so that readers read other lanes than their neighbours.

It takes a lane's items one by one, from an element on. Elements rise; those in between belong to other readers and are
passed over. A reader loads a block when its first element is due, and holds what is to come of it. Blocks of the next
batch can be fetched ahead, by threads.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import open_clip
import torch
from torch import Tensor

from diht_k8s.api.train import Train
from diht_k8s.data.shards.images import BadImageError, decode_pixels
from diht_k8s.data.shards.samples import caption_digest
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.stages.label.soft_labels import HeadLabels
from diht_k8s.stages.train.data.augment import drawn_caption, train_view
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.stages.train.data.dataset import LabelledSample, ShardDataset
from diht_k8s.stages.train.data.normalisation import GREY
from diht_k8s.stages.train.data.sampler import LaneSampler

IMAGE_CACHE_BYTES = 512 << 20
"""Decoded images that a process keeps for the next epoch: a small set fits, a large one would gain nothing."""
FETCHERS = 8
"""Threads of a process that read the blocks of its next batch: at 25 ms a request and 3 MiB a block some 100 MB/s
each."""


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


class LaneReader:
    """The items of a lane."""

    def __init__(self, source: ShardDataset, sampler: LaneSampler, epoch: int, lane: int, element: int) -> None:
        """Make a reader; nothing is read yet.

        Raises:
            DataError: the lane's blocks hold more or fewer samples than the epoch gives it positions.
        """
        self._source, self._sequential, self._epoch = source, sampler.sequential, epoch
        self._blocks, self._order = sampler.blocks(epoch, lane), sampler.lane(epoch, lane)
        positions = Count(self._order.length, "positions has the lane")
        samples = Count(int(self._blocks.counts.sum()), "samples have its blocks")
        require_equal(f"lane {lane} of epoch {epoch}", "report this as a fault of the program", positions, samples)
        self._pieces = self._order.elements(element)
        self._ahead: deque[int] = deque()
        """numbers of the elements to come, in their order."""
        self.next = element
        """number of the next element."""
        self._items: dict[int, LabelledSample] = {}
        """what was read and is to come, by number."""
        self._coming: dict[int, Future[list[LabelledSample]]] = {}
        """blocks that are being read."""
        self._unread: int | None = None
        """the first block that is read in sequence and was not read yet."""
        self._sequence: Iterator[LabelledSample] | None = None
        """samples of the shard of the block before it, from there on."""

    def take(self, element: int) -> LabelledSample:
        """An element; of those before it nothing is read that is not needed."""
        self._look_ahead(element)
        while self.next < element:
            self._items.pop(self._pass(), None)
        number = self._pass()
        if number not in self._items:
            self._load(number)
        return self._items.pop(number)

    def fetch(self, element: int, pool: Executor) -> None:
        """Begin to read the block of an element to come, if it is read by ranges."""
        self._look_ahead(element)
        number = self._ahead[element - self.next]
        block = self._block_of(number)
        if number not in self._items and block not in self._coming and not self._is_sequential(block):
            self._coming[block] = pool.submit(self._source.block, *self._place_of(block), self._epoch)

    def _look_ahead(self, element: int) -> None:
        while len(self._ahead) <= element - self.next:
            self._ahead.extend(next(self._pieces).tolist())

    def _pass(self) -> int:
        self.next += 1
        return self._ahead.popleft()

    def _block_of(self, number: int) -> int:
        return int(np.searchsorted(self._blocks.begins, number, side="right")) - 1

    def _place_of(self, block: int) -> tuple[int, int, int]:
        """(shard, first sample, samples) of a block."""
        blocks = self._blocks
        return int(blocks.shards[block]), int(blocks.firsts[block]), int(blocks.counts[block])

    def _is_sequential(self, block: int) -> bool:
        return int(self._blocks.shards[block]) in self._sequential

    def _load(self, number: int) -> None:
        block = self._block_of(number)
        if self._is_sequential(block):
            self._read_through(block, number)
            return
        coming = self._coming.pop(block, None)
        items = self._source.block(*self._place_of(block), self._epoch) if coming is None else coming.result()
        self._keep(block, items, number)

    def _keep(self, block: int, items: list[LabelledSample], now: int) -> None:
        """Keep those of a block that are not handed out before element number `now`."""
        begin, end = int(self._blocks.begins[block]), int(self._blocks.begins[block + 1])
        to_come = self._order.keys(begin, end) >= self._order.keys(now, now + 1)
        self._items |= {begin + place: items[place] for place in np.flatnonzero(to_come).tolist()}

    def _read_through(self, block: int, now: int) -> None:
        """Read what is read in sequence up to a block, in order, as far as something of it is to come."""
        if self._unread is None:
            oldest = int(self._order.keys(now, now + 1)[0]) - self._order.window
            self._unread = self._block_of(max(oldest, 0))
        for each in range(self._unread, block + 1):
            if self._is_sequential(each):
                shard, first, count = self._place_of(each)
                if self._sequence is None or not self._goes_on(each):
                    self._sequence = self._source.sequence(shard, first, self._epoch)
                self._keep(each, list(islice(self._sequence, count)), now)
        self._unread = max(self._unread, block + 1)

    def _goes_on(self, block: int) -> bool:
        """Whether a block begins where the one before it ends."""
        if block == 0:
            return False
        shard, first, count = self._place_of(block - 1)
        return self._place_of(block)[:2] == (shard, first + count)


@dataclass(frozen=True)
class ImageSizes:
    """Sides in pixels by samples seen."""

    last: int
    """the model's own."""
    earlier: tuple[tuple[int, int], ...] = ()
    """samples up to which a size holds, and the size; of all stages but the last."""

    @classmethod
    def of(cls, train: Train, size: int) -> ImageSizes:
        """Those of a training whose model has a size."""
        ends = itertools.accumulate(stage.samples for stage in train.stages)
        return cls(size, tuple(zip(ends, [stage.image_size for stage in train.stages], strict=True))[:-1])

    def at(self, seen: int) -> int:
        """The side of the images of the step that begins after `seen` samples."""
        return next((size for end, size in self.earlier if seen < end), self.last)
