"""Samples of the training's shards in the order that a stream asks for, each with its row of soft labels.

A small shard is read once and kept, because several streams read parts of it. A large one is read piece by piece as its
windows come up, so that a stream holds one window at a time. A shard that turns out to be damaged is used as far as it
can be read: the rest of its samples are bad ones, counted by the caller. (A shard that no filter has counted was counted up
to its damage, so nothing is lost there.)
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.label.soft_labels import Labels, read_labels
from diht_k8s.recipe.runtime.bad_shards import Damage, lost_sample, salvaged
from diht_k8s.recipe.shards.pairs import read_pairs
from diht_k8s.recipe.shards.samples import Sample
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.data.sampler import Slice

SHARD_CACHE_BYTES = 256 << 20
"""Shards that are kept as they are; one that is larger than an eighth of it is read piece by piece."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSample:
    """One sample on its way into a batch."""

    sample: Sample
    labels: Labels | None
    shard: int
    index: int
    """place in the shard, the row of its labels too."""


class ShardDataset:
    """Where samples come from."""

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
        self._damaged: set[int] = set()
        self.damaged: dict[str, Damage] = {}
        """URI of a shard -> its damage, as far as any was met."""
        self.check: Callable[[], object] | None = None
        """called while a shard is read; it may raise to stop."""

    def stream(self, pieces: Sequence[Slice]) -> Iterator[LabelledSample]:
        """The samples of a stream's slices, in their order.

        Raises:
            DataError: a shard holds fewer samples than its marker says, or its labels belong to something else.
        """
        for (number, _), slices in itertools.groupby(pieces, key=lambda piece: (piece.shard, piece.turn)):
            labels = self._labels(number)
            for piece, samples in self._samples(number, slices):
                for index in map(int, piece.indexes):
                    yield self._item(number, index, samples.get(index), labels)

    def _item(self, number: int, index: int, sample: Sample | None, labels: Labels | None) -> LabelledSample:
        shard = self.shards[number]
        if sample is None and number not in self._damaged:
            raise DataError(f"{shard.uri} holds fewer samples than the filter committed: run the stage filter again")
        if labels is not None and (
            index >= len(labels.uids) or (sample is not None and labels.uids[index] != sample.uid)
        ):
            raise DataError(
                f"the labels of {shard.name} do not match {shard.uri} at sample {index}: run the stage label again"
            )
        if sample is None:
            sample = lost_sample(f"{shard.name}-{index}")
        return LabelledSample(sample, labels, number, index)

    def _samples(self, number: int, slices: Iterator[Slice]) -> Iterator[tuple[Slice, Mapping[int, Sample]]]:
        """Each slice of one shard with at least its samples, by index."""
        if self._size(number) <= SHARD_CACHE_BYTES // 8:
            for piece in slices:
                yield piece, self._whole(number)
            return
        reader = self._read(number)
        for piece in slices:
            wanted, last = set(piece.indexes.tolist()), int(piece.indexes.max())
            found: dict[int, Sample] = {}
            for index, sample in reader:
                if index in wanted:
                    found[index] = sample
                if index == last:
                    break
            yield piece, found

    def _whole(self, number: int) -> Mapping[int, Sample]:
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            self._kept[number] = dict(self._read(number))
            while sum(self._sizes[kept] for kept in self._kept) > SHARD_CACHE_BYTES:
                dropped, _ = self._kept.popitem(last=False)
                self._kept_labels.pop(dropped, None)
        return self._kept[number]

    def _read(self, number: int) -> Iterator[tuple[int, Sample]]:
        """The samples of a shard with their indexes, as far as it can be read."""
        shard = self.shards[number]
        samples = islice(read_pairs(self._storage, shard, check=self.check), shard.samples)

        def report(damage: Damage, sentence: str) -> None:
            if number not in self._damaged:
                logger.warning("%s; until then, the samples after it count as bad", sentence)
            self._damaged.add(number)
            self.damaged[shard.uri] = damage

        yield from enumerate(salvaged(samples, report))

    def _size(self, number: int) -> int:
        if number not in self._sizes:
            self._sizes[number] = self._storage.size(self.shards[number].uri)
        return self._sizes[number]

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
        if self._size(number) <= SHARD_CACHE_BYTES // 8:
            self._kept_labels[number] = labels
        return labels
