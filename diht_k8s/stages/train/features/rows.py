"""Rows of stored features by range requests, or from memory where the whole training's fit.

In: the files of a training's shards. Out: the features of consecutive pairs, each with the digest of its uid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.safetensors_metadata import metadata_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.data.lru_cache import LruCache
from diht_k8s.stages.train.features.feature_set import FeatureFile

# N pairs of a shard, B of a block, W width of the features.

CACHE_BYTES: Final = 1 << 30
"""Features that a process holds: those of 400,000 pairs with 1,280 numbers each. Larger trainings read ranges."""
HEADER_BYTES: Final = 1 << 14
LENGTH_BYTES: Final = 8
DTYPES: Final[Mapping[str, torch.dtype]] = {"F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}


@dataclass(frozen=True)
class FeatureRows:
    """The features of some consecutive pairs, as many as the file has."""

    features_BW: Tensor
    """fp16."""
    uid_hash_B: list[int]
    usable_B: list[bool]


@dataclass(frozen=True)
class _Column:
    dtype: torch.dtype
    width: int
    """elements of a row."""
    begin: int
    """its first byte in the file."""

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize


@dataclass(frozen=True)
class _Table:
    """One file: where its features lie or, held whole, themselves, and the small columns."""

    features: _Column
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
        elif last > first:
            features_BW = self._read(self.files[number], table.features, first, last)
        else:
            features_BW = self.stand_in_W.new_empty(0, self.width)
        return FeatureRows(features_BW, table.uid_hash_N[first:last].tolist(), table.usable_N[first:last].tolist())

    def _read(self, file: FeatureFile, column: _Column, first: int, last: int) -> Tensor:
        begin, size = column.begin, column.row_bytes
        if first == last:
            return torch.empty(0, dtype=column.dtype)
        data = self._storage.read_range(file.uri, begin + first * size, begin + last * size)
        if len(data) != (last - first) * size:
            raise DataError(f"{file.uri} is cut: {file.remedy}")
        found = torch.frombuffer(bytearray(data), dtype=column.dtype)
        return found if column.width == 1 else found.view(-1, column.width)

    def _open(self, number: int) -> _Table:
        file = self.files[number]
        try:
            return self._held(file) if self._whole else self._indexed(file)
        except (SafetensorError, ValueError, KeyError) as error:
            raise _damaged(file, error) from error

    def _held(self, file: FeatureFile) -> _Table:
        data = self._storage.read_bytes(file.uri)
        self._check(file, json.loads(metadata_of(data)["diht"]))
        found = load(data)
        features_NW = found["features"]
        self._check_width(file, features_NW.shape[1])
        column = _Column(features_NW.dtype, features_NW.shape[1], 0)
        return _Table(column, found["uid_hash"], found["usable"], features_NW)

    def _indexed(self, file: FeatureFile) -> _Table:
        header, length = _header(self._storage, file)
        self._check(file, json.loads(header["__metadata__"]["diht"]))
        columns = {name: _column(header[name], LENGTH_BYTES + length) for name in ("features", "uid_hash", "usable")}
        rows: int = header["features"]["shape"][0]
        self._check_width(file, columns["features"].width)
        uid_hash_N, usable_N = (self._read(file, columns[name], 0, rows) for name in ("uid_hash", "usable"))
        return _Table(columns["features"], uid_hash_N, usable_N, None)

    def _check(self, file: FeatureFile, header: Mapping[str, Any]) -> None:
        if header.get("config_sha256") != file.config_sha256:
            theirs = (
                f"the image tower {str(header['tower'])[:12]} of {header['source']}" if "tower" in header else "others"
            )
            raise DataError(f"{file.uri} holds features of {theirs}, not of {file.of}: {file.remedy}")

    def _check_width(self, file: FeatureFile, width: int) -> None:
        if width != self.width:
            raise DataError(f"{file.uri} holds {width} numbers for a pair, {file.of} gives {self.width}: {file.remedy}")


def width_of(storage: Storage, file: FeatureFile) -> int:
    """Numbers that a file holds for a pair.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return math.prod(_header(storage, file)[0]["features"]["shape"][1:])
    except (ValueError, KeyError) as error:
        raise _damaged(file, error) from error


def _header(storage: Storage, file: FeatureFile) -> tuple[dict[str, Any], int]:
    """A file's header and its length in bytes."""
    start = storage.read_range(file.uri, 0, HEADER_BYTES)
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if LENGTH_BYTES + length > len(start):
        raise ValueError("its header is too long")
    return json.loads(start[LENGTH_BYTES : LENGTH_BYTES + length]), length


def _damaged(file: FeatureFile, error: Exception) -> DataError:
    return DataError(f"{file.uri} is damaged ({error}): {file.remedy}")


def _column(entry: Mapping[str, Any], data_begin: int) -> _Column:
    return _Column(DTYPES[entry["dtype"]], math.prod(entry["shape"][1:]), data_begin + entry["data_offsets"][0])
