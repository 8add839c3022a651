"""Batches of one rank: pictures, tokens and soft labels of its positions in the global order, prepared in a thread ahead of the step."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.concepts.soft_labels import HeadLabels, Labels, read_labels
from diht_k8s.recipe.shards.pictures import BadPictureError, decode
from diht_k8s.recipe.shards.samples import Sample, read_samples
from diht_k8s.recipe.shards.sets import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.training.augment import to_tensor, train_pixels
from diht_k8s.recipe.training.order import Order, Slice

PREFETCH_BATCHES = 2
PICTURE_CACHE_BYTES = 512 << 20
"""Decoded pictures that are kept for the next epoch; a small set fits, of a large one nothing is found again anyway."""


@dataclass(frozen=True)
class HeadTargets:
    """Soft targets of one concept head."""

    ids_BK: Tensor
    probabilities_BK: Tensor


@dataclass(frozen=True)
class Targets:
    """Soft targets of a batch."""

    objects: HeadTargets
    attributes: HeadTargets
    mask_B: Tensor
    """whether a picture has labels."""


@dataclass(frozen=True)
class Batch:
    """What one rank trains on in one step."""

    images_BCHW: Tensor
    tokens_BT: Tensor
    caption_ids_B: Tensor
    """equal where captions are equal, int64."""
    targets: Targets | None
    uids: list[str]


@dataclass
class Item:
    """One sample on its way into a batch."""

    sample: Sample
    labels: Labels | None
    label_row: int


@dataclass
class Source:
    """Where samples come from."""

    storage: Storage
    shards: Sequence[Shard]
    label_uris: Sequence[str] | None
    """one table beside each shard, None without distillation."""
    max_bad: int
    """more bad pictures than this end the training."""
    bad: dict[str, int] = field(default_factory=dict)
    """bad pictures by reason."""

    def read(self, piece: Slice) -> list[Item]:
        """The samples of a slice, in its order.

        Raises:
            DataError: the shard holds fewer samples than its marker says, or its labels belong to another shard.
        """
        shard = self.shards[piece.shard]
        wanted = {int(index): place for place, index in enumerate(piece.indexes)}
        labels = read_labels(self.storage, self.label_uris[piece.shard]) if self.label_uris is not None else None
        found: list[Item | None] = [None] * len(wanted)
        last = max(wanted)
        for index, sample in enumerate(read_samples(self.storage, shard.uri)):
            if index in wanted:
                if labels is not None and labels.uids[index] != sample.uid:
                    raise DataError(
                        f"the labels of {shard.name} do not match {shard.uri} at sample {index}: run the stage label again"
                    )
                found[wanted[index]] = Item(sample, labels, index)
            if index == last:
                break
        items = [item for item in found if item is not None]
        if len(items) < len(wanted):
            raise DataError(f"{shard.uri} holds fewer samples than the filter committed: run the stage filter again")
        return items


class Loader:
    """Iterates over the batches of one rank from a position on."""

    def __init__(
        self,
        source: Source,
        order: Order,
        *,
        batch_size: int,
        image_size: int,
        context_length: int,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        """Make a loader; nothing is read yet.

        Args:
            source: the shards.
            order: the global order over them.
            batch_size: of the global batch; a multiple of `world`.
            image_size: side of the pictures in pixels.
            context_length: tokens of a caption at most.
            seed: of the augmentation.
            rank: of this process.
            world: number of processes.
        """
        self._source, self._order = source, order
        self._batch_size, self._image_size, self._seed = batch_size, image_size, seed
        self._rank, self._world = rank, world
        self._tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=context_length)
        self._streams: dict[tuple[int, int], Iterator[Item]] = {}
        self._next_element: dict[tuple[int, int], int] = {}
        self._pictures: OrderedDict[str, Image.Image] = OrderedDict()
        self._picture_bytes = 0
        self.wait_seconds = 0.0
        """time that `batches` waited for data since it was last read."""

    @property
    def bad(self) -> dict[str, int]:
        """Unreadable pictures so far, by reason."""
        return self._source.bad

    def batches(self, position: int) -> Generator[Batch]:
        """Batches for ever, the first one beginning at a global position (a multiple of the batch size)."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCH_BATCHES)
        closed = threading.Event()

        def fill() -> None:
            try:
                for start in itertools.count(position, self._batch_size):
                    batch = self._batch(start)
                    while not closed.is_set():
                        try:
                            ready.put(batch, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if closed.is_set():
                        return
            except BaseException as error:  # handed over to the training thread, which raises it
                ready.put(error)

        threading.Thread(target=fill, name="loader", daemon=True).start()
        try:
            while True:
                before = time.perf_counter()
                item = ready.get()
                self.wait_seconds += time.perf_counter() - before
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    def _batch(self, start: int) -> Batch:
        items = [self._item(position) for position in range(start + self._rank, start + self._batch_size, self._world)]
        epoch = [
            self._order.locate(position)[0]
            for position in range(start + self._rank, start + self._batch_size, self._world)
        ]
        pixels = np.empty((len(items), self._image_size, self._image_size, 3), np.uint8)
        for place, item in enumerate(items):
            image = self._picture(item)
            pixels[place] = train_pixels(
                image, self._image_size, seed=self._seed, epoch=epoch[place], uid=item.sample.uid
            )
        captions = [item.sample.caption for item in items]
        return Batch(
            to_tensor(pixels),
            self._tokenizer(captions),
            torch.tensor([_caption_id(item.sample.caption_sha256) for item in items]),
            _targets(items),
            [item.sample.uid for item in items],
        )

    def _item(self, position: int) -> Item:
        epoch, stream, element = self._order.locate(position)
        key = (epoch, stream)
        if self._next_element.get(key) != element:
            self._streams[key] = self._read_stream(epoch, stream, element)
            for old in [old for old in self._streams if old[0] < epoch - 1]:
                del self._streams[old], self._next_element[old]
        self._next_element[key] = element + 1
        return next(self._streams[key])

    def _read_stream(self, epoch: int, stream: int, skip: int) -> Iterator[Item]:
        for piece in self._order.stream_slices(epoch, stream):
            if skip >= len(piece.indexes):
                skip -= len(piece.indexes)
                continue
            yield from self._source.read(Slice(piece.shard, piece.indexes[skip:]))
            skip = 0

    def _picture(self, item: Item) -> Image.Image:
        """The decoded picture; one that cannot be read is counted and stands in as grey, so that all ranks keep the same step."""
        uid = item.sample.uid
        if uid in self._pictures:
            self._pictures.move_to_end(uid)
            return self._pictures[uid]
        try:
            image = decode(item.sample.image)
        except BadPictureError as error:
            bad = self._source.bad
            bad[error.reason] = bad.get(error.reason, 0) + 1
            if sum(bad.values()) > self._source.max_bad:
                raise DataError(
                    f"more than {self._source.max_bad} unreadable pictures in training ({bad}): run the stage filter on this data"
                ) from error
            image = Image.new("RGB", (self._image_size, self._image_size), (123, 117, 104))
        self._remember(uid, image)
        return image

    def _remember(self, uid: str, image: Image.Image) -> None:
        self._pictures[uid] = image
        self._picture_bytes += image.width * image.height * 3
        while self._picture_bytes > PICTURE_CACHE_BYTES:
            _, dropped = self._pictures.popitem(last=False)
            self._picture_bytes -= dropped.width * dropped.height * 3


def _targets(items: list[Item]) -> Targets | None:
    rows = [(item.labels, item.label_row) for item in items if item.labels is not None]
    if not rows:
        return None
    return Targets(
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
