"""Batches of one rank: pictures, tokens and soft labels of its positions in the global order, prepared in a thread ahead of the step."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
SHARD_CACHE_BYTES = 256 << 20
"""Shards that are kept as they are; one that is larger than an eighth of it is read piece by piece."""
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
    bad: dict[str, int]
    """samples that could not be used, by reason; a grey picture stands in for each."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    image: Image.Image
    problem: str | None
    """why the sample is bad."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.image.width * self.image.height * 3


@dataclass(frozen=True)
class Item:
    """One sample on its way into a batch."""

    sample: Sample
    labels: Labels | None
    label_row: int


class Source:
    """Where samples come from; small shards are kept, because several streams read parts of the same one."""

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[Shard],
        label_uris: Sequence[str] | None = None,
        *,
        vocabulary_sha256: str | None = None,
    ) -> None:
        """Make a source; nothing is read yet.

        Args:
            storage: reads the shards.
            shards: in the order's numbering.
            label_uris: one table of soft labels beside each shard; None without distillation.
            vocabulary_sha256: of the vocabulary that the labels must belong to.
        """
        self._storage, self.shards = storage, shards
        self._label_uris, self._vocabulary_sha256 = label_uris, vocabulary_sha256
        self._kept: OrderedDict[int, Mapping[int, Sample]] = OrderedDict()
        self._kept_labels: dict[int, Labels] = {}
        self._sizes: dict[int, int] = {}

    def read(self, piece: Slice) -> list[Item]:
        """The samples of a slice, in its order.

        Raises:
            DataError: the shard holds fewer samples than its marker says, or its labels belong to something else.
        """
        shard = self.shards[piece.shard]
        samples, labels = self._samples(piece), self._labels(piece.shard)
        items = []
        for index in map(int, piece.indexes):
            if index not in samples:
                raise DataError(
                    f"{shard.uri} holds fewer samples than the filter committed: run the stage filter again"
                )
            sample = samples[index]
            if labels is not None and (index >= len(labels.uids) or labels.uids[index] != sample.uid):
                raise DataError(
                    f"the labels of {shard.name} do not match {shard.uri} at sample {index}: run the stage label again"
                )
            items.append(Item(sample, labels, index))
        return items

    def _samples(self, piece: Slice) -> Mapping[int, Sample]:
        """At least the samples of the slice, by index."""
        uri, number = self.shards[piece.shard].uri, piece.shard
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        if number not in self._sizes:
            self._sizes[number] = self._storage.size(uri)
        small = self._sizes[number] <= SHARD_CACHE_BYTES // 8
        wanted, last = set(piece.indexes.tolist()), int(max(piece.indexes))
        found: dict[int, Sample] = {}
        for index, sample in enumerate(read_samples(self._storage, uri)):
            if small or index in wanted:
                found[index] = sample
            if index == last and not small:
                break
        if small:
            self._keep(number, found)
        return found

    def _keep(self, number: int, samples: Mapping[int, Sample]) -> None:
        self._kept[number] = samples
        while sum(self._sizes[kept] for kept in self._kept) > SHARD_CACHE_BYTES:
            dropped, _ = self._kept.popitem(last=False)
            self._kept_labels.pop(dropped, None)

    def _labels(self, number: int) -> Labels | None:
        if self._label_uris is None:
            return None
        if number in self._kept_labels:
            return self._kept_labels[number]
        uri = self._label_uris[number]
        labels = read_labels(self._storage, uri)
        theirs = labels.header.get("vocabulary_sha256")
        if self._vocabulary_sha256 is not None and theirs != self._vocabulary_sha256:
            raise DataError(f"{uri} was made with another vocabulary than vocabulary.json: run the stage label again")
        if number in self._kept:
            self._kept_labels[number] = labels
        return labels


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
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._picture_bytes = 0
        self.wait_seconds = 0.0
        """time that `batches` waited for data since it was last read."""

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
        positions = range(start + self._rank, start + self._batch_size, self._world)
        items = [self._item(position) for position in positions]
        pictures = [self._picture(item) for item in items]
        pixels_BHWC = np.empty((len(items), self._image_size, self._image_size, 3), np.uint8)
        for place, (position, item, picture) in enumerate(zip(positions, items, pictures, strict=True)):
            epoch, _, _ = self._order.locate(position)
            pixels_BHWC[place] = train_pixels(
                picture.image, self._image_size, seed=self._seed, epoch=epoch, uid=item.sample.uid
            )
        return Batch(
            to_tensor(pixels_BHWC),
            self._tokenizer([item.sample.caption for item in items]),
            torch.tensor([_caption_id(item.sample.caption_sha256) for item in items]),
            _targets(items),
            [item.sample.uid for item in items],
            dict(Counter(picture.problem for picture in pictures if picture.problem is not None)),
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

    def _picture(self, item: Item) -> Picture:
        """The decoded picture; grey where the sample is bad, so that all ranks keep the same step."""
        uid = item.sample.uid
        if uid in self._pictures:
            self._pictures.move_to_end(uid)
            return self._pictures[uid]
        try:
            picture = Picture(decode(item.sample.image), item.sample.problem)
        except BadPictureError as error:
            grey = Image.new("RGB", (self._image_size, self._image_size), (123, 117, 104))
            picture = Picture(grey, item.sample.problem or error.reason)
        self._remember(uid, picture)
        return picture

    def _remember(self, uid: str, picture: Picture) -> None:
        self._pictures[uid] = picture
        self._picture_bytes += picture.bytes
        while self._picture_bytes > PICTURE_CACHE_BYTES:
            _, dropped = self._pictures.popitem(last=False)
            self._picture_bytes -= dropped.bytes


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
