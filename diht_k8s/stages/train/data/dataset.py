"""Samples of the training's shards in the order that is asked for, each with its row of soft labels.

Of an indexed shard a block of consecutive samples is one range request (`block`). A shard of which no ranges can be
read is read in sequence (`sequence`).

A shard that turns out to be damaged is used as far as it can be read: the rest of its samples are bad ones, counted by
the caller. (A shard that no filter has counted was counted up to its damage, so nothing is lost there.)
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.data.feature_files import hash64
from diht_k8s.data.shards.listing import ReplacedError, copied_without_times
from diht_k8s.data.shards.pairs import KeepListRow, read_keep_list, read_pairs, replaced, with_usual_names
from diht_k8s.data.shards.samples import IMAGE_SUFFIXES, Sample, storable
from diht_k8s.data.shards.shard_index import ShardIndex, read_range
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage, lost_sample, salvaged
from diht_k8s.stages.label.soft_labels import Labels, LabelTable, read_label_table
from diht_k8s.stages.train.features.rows import FeatureRows, FeatureTables, LruCache

SHARD_CACHE_BYTES = 256 << 20
"""Samples that a process keeps for the next epoch, if all of the training fit."""
LABEL_CACHE_BYTES = 256 << 20
"""Tables of labels at hand: some 120 bytes a pair, so those of 2 million pairs, which are the lanes of one reader of
200 over 438 million."""
INDEX_CACHE_SAMPLES = 1 << 22
"""Places of samples at hand, and rows of keep lists: 8 bytes each, and some 150."""
GAP_BYTES = 1 << 20
"""Two kept samples with more than this between them are two requests: a connection passes it in the time of a
request."""

UNUSABLE = "picture_unreadable"
"""Problem of an image without stored features."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSample:
    """One sample on its way into a batch."""

    sample: Sample
    labels: Labels | None
    shard: int
    index: int
    """place in the shard."""
    row: int
    """of its labels in `labels`."""
    features_W: Tensor | None = None
    """stored features of its image; those of a grey one if it cannot be used."""
    problem: str | None = None
    """why its image cannot be used, as far as stored features say so."""
    embeddings_W: Tensor | None = None
    """a teacher's, of its image and its caption; zeros where the teacher has none."""


class _Beside(NamedTuple):
    """What is stored beside some consecutive samples of a shard."""

    labels: Labels | None
    view: FeatureTables | None
    features: FeatureRows | None
    """of that view."""
    embeddings: FeatureRows | None


class Indexes(Protocol):
    """Offsets of the samples of shards."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard, None if there is none."""
        ...


class ShardDataset:
    """Samples of the shards, by block or in sequence, with their labels."""

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[Shard],
        label_uris: Sequence[str] | None = None,
        *,
        vocabulary_sha256: str | None = None,
        indexes: Indexes | None = None,
        features: Sequence[FeatureTables] = (),
        embeddings: FeatureTables | None = None,
    ) -> None:
        """Make a source; nothing is read yet.

        Args:
            storage: reads the shards.
            shards: in the order's numbering.
            label_uris: one table of soft labels beside each shard; None without distillation.
            vocabulary_sha256: of the vocabulary that the labels must belong to.
            indexes: of the shards of which blocks are read.
            features: stored ones, with which images are not kept: tables of each view, of which each epoch sees the
                next.
            embeddings: a teacher's, of images and captions.
        """
        self._storage, self.shards, self._indexes = storage, shards, indexes
        self.features, self.embeddings = features, embeddings
        self._label_uris, self._vocabulary_sha256 = label_uris, vocabulary_sha256
        self._tables: LruCache[int, LabelTable] = LruCache(LABEL_CACHE_BYTES, lambda table: table.size)
        self._index: LruCache[int, ShardIndex] = LruCache(INDEX_CACHE_SAMPLES, lambda index: index.samples)
        self._lists: LruCache[int, list[KeepListRow]] = LruCache(INDEX_CACHE_SAMPLES, len)
        self._samples = _EpochCache(sum(shard.samples or 0 for shard in shards))
        self._damaged: set[int] = set()
        self.damaged: dict[str, Damage] = {}
        """URI of a shard -> its damage, as far as any was met."""
        self.check: Callable[[], object] | None = None
        """called while a shard is read; it may raise to stop."""

    @property
    def labelled(self) -> bool:
        """Whether soft labels lie beside the samples."""
        return self._label_uris is not None

    def block(self, number: int, first: int, count: int, epoch: int = 0) -> list[LabelledSample]:
        """Consecutive samples of an indexed shard, as an epoch sees them; the kept ones of a shard with a keep list.

        Raises:
            DataError: a shard is another one than that of its index, or its labels belong to something else.
        """
        found = self._samples.of(number, first, count)
        if found is None:
            try:
                found = self._read_block(number, first, count)
            except ReplacedError as error:
                raise DataError(copied_without_times(self._versions()) or str(error)) from error
            self._samples.add(number, found)
        beside = self._beside(number, first, count, epoch)
        return [
            self._item(number, index, found.get(index), beside, index - first) for index in range(first, first + count)
        ]

    def sequence(self, number: int, first: int, epoch: int = 0) -> Iterator[LabelledSample]:
        """The samples of a shard from one of them on, as an epoch sees them, read from its start.

        Raises:
            DataError: the shard holds fewer samples than its marker says, or its labels belong to something else.
        """
        samples = self.shards[number].samples
        beside, at = self._beside(number, 0, samples, epoch), first
        for index, sample in self._read(number):
            if index >= first:
                yield self._item(number, index, sample, beside, index)
                at = index + 1
        for index in range(at, samples or at):
            yield self._item(number, index, None, beside, index)

    def _beside(self, number: int, first: int, count: int | None, epoch: int) -> _Beside:
        """What lies beside some samples; beside all of them where their number is not known."""
        labels = None if self._label_uris is None else self._table(number)
        view = self.features[epoch % len(self.features)] if self.features else None
        return _Beside(
            None if labels is None else labels.rows(first, len(labels) if count is None else first + count),
            view,
            None if view is None else view.rows(number, first, count or 0),
            None if self.embeddings is None else self.embeddings.rows(number, first, count or 0),
        )

    def _item(self, number: int, index: int, sample: Sample | None, beside: _Beside, row: int) -> LabelledSample:
        shard, labels = self.shards[number], beside.labels
        if sample is None and number not in self._damaged:
            raise DataError(f"{shard.uri} holds fewer samples than the filter committed: run the stage filter again")
        if labels is not None and (row >= len(labels.uids) or (sample is not None and labels.uids[row] != sample.uid)):
            raise DataError(
                f"the labels of {shard.name} do not match {shard.uri} at sample {index}: run the stage label again"
            )
        uid = None if sample is None else sample.uid
        item = LabelledSample(sample or lost_sample(f"{shard.name}-{index}"), labels, number, index, row)
        if beside.view is not None and beside.features is not None:
            features_W, usable = self._stored(beside.view, beside.features, number, index, row, uid)
            item = replace(item, features_W=features_W, problem=None if usable else UNUSABLE)
        if self.embeddings is not None and beside.embeddings is not None:
            embeddings_W, _ = self._stored(self.embeddings, beside.embeddings, number, index, row, uid)
            item = replace(item, embeddings_W=embeddings_W)
        return item

    def _stored(
        self, tables: FeatureTables, rows: FeatureRows, number: int, index: int, row: int, uid: str | None
    ) -> tuple[Tensor, bool]:
        """What is stored of a sample, or what stands in for it, and whether it is usable; a lost one has no uid."""
        there, file = uid is not None, tables.files[number]
        if there and row >= len(rows.usable_B):
            uri = self.shards[number].uri
            raise DataError(
                f"{file.uri} is of {uri} as far as that could be read once, and lacks sample {index}: {file.remedy}"
            )
        if there and rows.uid_hash_B[row] != hash64(uid or ""):
            raise DataError(
                f"the features in {file.uri} do not match {self.shards[number].uri} at sample {index}: {file.remedy}"
            )
        usable = there and rows.usable_B[row]
        return (rows.features_BW[row] if usable else tables.stand_in_W), usable

    def _read_block(self, number: int, first: int, count: int) -> dict[int, Sample]:
        """The samples that are there, by index; a damaged shard has them up to its damage."""
        shard, index = self.shards[number], self._index.get(number, self._index_of)
        assert index.starts is not None, "shards without ranges are read in sequence"
        listed = None if shard.keep_list is None else self._lists.get(number, self._list_of)[first : first + count]
        rows = np.arange(first, first + count) if listed is None else np.array([each.row for each in listed], np.int64)
        there = rows[rows < index.samples]
        if len(there) < count and index.damage is not None:
            damage = Damage(index.damage.reason, index.damage.offset, index.samples)
            self._report(number, damage, damage.of(shard.uri))
        found: dict[int, Sample] = {}
        for begin, end in _ranges(there, index.starts):
            read = read_range(self._storage, shard.uri, index, int(there[begin]), int(there[end - 1]) + 1, self.check)
            wanted = {int(row): first + begin + place for place, row in enumerate(there[begin:end])}
            for row, sample in enumerate(read, int(there[begin])):
                if row in wanted:
                    found[wanted[row]] = self._needed(with_usual_names(sample, shard.image_key, shard.caption_key))
        for place, each in enumerate(listed or []):
            sample = found.get(first + place)
            if shard.keep_list is not None and sample is not None and storable(sample.uid) != each.uid:
                raise replaced(shard, shard.keep_list, f"row {each.row} should be {each.uid!r}")
        return found

    def _versions(self) -> Iterator[tuple[str, str, str]]:
        """Of each indexed shard its place, the version of its index and the one that is there."""
        for shard in self.shards:
            index = None if self._indexes is None else self._indexes.of(shard.name)
            if index is not None:
                yield shard.uri, index.identity, self._storage.identity(shard.uri)

    def _index_of(self, number: int) -> ShardIndex:
        shard = self.shards[number]
        index = None if self._indexes is None else self._indexes.of(shard.name)
        if index is None:
            raise DataError(f"{shard.uri} has no index: make it by `diht index`")
        if shard.keep_list is not None and shard.identity not in (None, index.identity):
            raise replaced(shard, shard.keep_list, "it has changed since")
        return index

    def _list_of(self, number: int) -> list[KeepListRow]:
        place = self.shards[number].keep_list
        assert place is not None
        return read_keep_list(self._storage, place)

    def _read(self, number: int) -> Iterator[tuple[int, Sample]]:
        """The samples of a shard with their indexes, as far as it can be read."""
        shard = self.shards[number]
        samples = islice(read_pairs(self._storage, shard, check=self.check), shard.samples)
        read = salvaged(samples, lambda damage, sentence: self._report(number, damage, sentence))
        yield from enumerate(map(self._needed, read))

    def _needed(self, sample: Sample) -> Sample:
        """A sample without its image, which stored features stand for."""
        if not self.features:
            return sample
        members = {name: data for name, data in sample.members.items() if name not in IMAGE_SUFFIXES}
        return replace(sample, members=members)

    def _report(self, number: int, damage: Damage, sentence: str) -> None:
        if number not in self._damaged:
            logger.warning("%s; until then, the samples after it count as bad", sentence)
        self._damaged.add(number)
        self.damaged[self.shards[number].uri] = damage

    def _table(self, number: int) -> LabelTable:
        return self._tables.get(number, self._read_table)

    def _read_table(self, number: int) -> LabelTable:
        assert self._label_uris is not None
        uri = self._label_uris[number]
        table = read_label_table(self._storage, uri)
        theirs = table.header.get("vocabulary_sha256")
        if self._vocabulary_sha256 is not None and theirs != self._vocabulary_sha256:
            raise DataError(f"{uri} was made with another vocabulary than vocabulary.json: run the stage label again")
        return table


class _EpochCache:
    """Samples for the next epoch, where those of all epochs fit."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._kept: dict[tuple[int, int], Sample] = {}
        self._seen = self._bytes = 0

    def of(self, number: int, first: int, count: int) -> dict[int, Sample] | None:
        """A block, if all of it is there."""
        found = {index: self._kept.get((number, index)) for index in range(first, first + count)}
        return None if None in found.values() else {index: each for index, each in found.items() if each is not None}

    def add(self, number: int, samples: Mapping[int, Sample]) -> None:
        """Take in a block that was read."""
        self._seen += len(samples)
        self._bytes += _bytes_of(samples)
        if self._bytes * self._total > SHARD_CACHE_BYTES * self._seen:
            self._kept.clear()
            return
        self._kept |= {(number, index): sample for index, sample in samples.items()}


def _bytes_of(samples: Mapping[int, Sample]) -> int:
    return sum(len(data) for sample in samples.values() for data in sample.members.values())


def _ranges(rows: np.ndarray, starts: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of the rows that are read by one request each."""
    if not len(rows):
        return []
    gaps = starts[rows[1:]] - starts[rows[:-1] + 1]
    cuts = [0, *(np.flatnonzero(gaps > GAP_BYTES) + 1).tolist(), len(rows)]
    return list(itertools.pairwise(cuts))
