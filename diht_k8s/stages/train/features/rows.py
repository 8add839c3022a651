"""Rows of stored features, by range requests, or from memory where the whole training's fit.

In: the files of a training's shards. Out: the features of consecutive pairs, each with the digest of its uid.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.feature_files import Column, FeatureFile, read_columns, read_features
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed

# N pairs of a shard, B of a block, W width of the features.

CACHE_BYTES: Final = 1 << 30
"""Features that a process holds: those of 400,000 pairs with 1,280 numbers each. Larger trainings read ranges."""


@dataclass(frozen=True)
class FeatureRows:
    """The features of some consecutive pairs, as many as the file has."""

    features_BW: Tensor
    """fp16."""
    uid_hash_B: list[int]
    usable_B: list[bool]


@dataclass(frozen=True)
class _Table:
    """One file: where its features lie or, held whole, themselves, and the small columns."""

    column: Column | None
    uid_hash_N: Tensor
    usable_N: Tensor
    features_NW: Tensor | None

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return 9 * len(self.usable_N) + (0 if self.features_NW is None else 2 * self.features_NW.numel())


class FeatureTables:
    """The stored features of a training's shards."""

    def __init__(
        self,
        storage: Storage,
        files: Sequence[FeatureFile],
        stand_in_W: Tensor,
        *,
        pairs: int,
        limit: int = CACHE_BYTES,
    ) -> None:
        """Read nothing yet.

        Args:
            storage: of the files.
            files: of the shards, in the order's numbering.
            stand_in_W: features of the grey image that stands in for one that cannot be used.
            pairs: of all shards.
            limit: bytes that are held in memory.
        """
        self._storage, self.files, self.stand_in_W = storage, files, stand_in_W.half()
        self._whole = 2 * pairs * len(stand_in_W) <= limit
        self._tables: LruCache[int, _Table] = LruCache(
            limit if not self._whole else 2 * limit, lambda table: table.held
        )

    @property
    def width(self) -> int:
        """W."""
        return len(self.stand_in_W)

    def rows(self, number: int, first: int, count: int) -> FeatureRows:
        """Consecutive rows of a shard; fewer where the file ends, as that of a damaged shard does.

        Raises:
            DataError: the file is damaged, or holds features of another tower or view.
        """
        table = self._tables.get(number, self._open)
        last = min(first + count, len(table.usable_N))
        if table.features_NW is not None:
            features_BW = table.features_NW[first:last]
        elif table.column is not None and last > first:
            features_BW = table.column.read(self._storage, self.files[number], first, last)
        else:
            features_BW = self.stand_in_W.new_empty(0, self.width)
        return FeatureRows(features_BW, table.uid_hash_N[first:last].tolist(), table.usable_N[first:last].tolist())

    def _open(self, number: int) -> _Table:
        file = self.files[number]
        if self._whole:
            tensors, _ = read_features(self._storage, file)
            self._check_width(file, tensors["features"].shape[1])
            return _Table(None, tensors["uid_hash"], tensors["usable"], tensors["features"])
        columns = read_columns(self._storage, file)
        self._check_width(file, columns["features"].width)
        uid_hash_N, usable_N = (
            columns[name].read(self._storage, file, 0, columns[name].rows) for name in ("uid_hash", "usable")
        )
        return _Table(columns["features"], uid_hash_N, usable_N, None)

    def _check_width(self, file: FeatureFile, width: int) -> None:
        if width != self.width:
            raise DataError(f"{file.uri} holds {width} numbers for a pair, {file.of} gives {self.width}: {file.remedy}")


def label_embeddings(
    run: DihtRun, storage: Storage, labelled: Layout, shards: Sequence[Shard], *, readers: int
) -> FeatureTables | None:
    """The embeddings of a training's pairs, image's before caption's; None where none are asked for.

    Args:
        run: the run document.
        storage: of the labels.
        labelled: with the folder of the labels.
        shards: with their counts, in the order's numbering.
        readers: processes of a rank that hold some of them in memory, each its own.

    Raises:
        DataError: the labels are not complete, or a file is damaged.
    """
    train = run.training
    if train.distillation.embeddings is None:
        return None
    remedy = "remove the folder of these labels and run the stage label again"
    config_sha256 = read_committed(storage, labelled, Stage.LABEL).config_sha256
    files = [FeatureFile(labelled.embeddings(each.name), config_sha256, "the teacher", remedy) for each in shards]
    none_W = torch.zeros(
        read_columns(storage, files[0])["features"].width
    )  # of a pair whose image the teacher could not see
    pairs = sum(shard.samples or 0 for shard in shards)
    return FeatureTables(storage, files, none_W, pairs=pairs, limit=CACHE_BYTES // max(1, readers))


Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Keeps the values that were used last; several threads may ask, and each value is made once."""

    def __init__(self, limit: int, weigh: Callable[[Value], int]) -> None:
        """Begin empty.

        Args:
            limit: on the sum of the weights; the value that was asked for last is always kept.
            weigh: the weight of a value.
        """
        self._limit, self._weigh = limit, weigh
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[Key], Value]) -> Value:
        """The value of a key, made if it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            value = self._kept[key] = make(key)
            self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._weight -= self._weigh(dropped)
            return value
