"""Files of features, one for each shard: the one format of labels, trainings and evaluations.

A file is a safetensors file that is whole or absent: `features` [N, W], a row for each pair or image in the shard's
order, and for pairs `uid_hash` (int64) and `usable` (bool) of each row. Its header `diht` is JSON: `config_sha256`, the
digest of all that decides the numbers, and what else the stage says of the rows. Long files are read by ranges.

Torch is imported where tensors are made, so that a program without it can read headers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIX: Final = ".safetensors"
HEADER: Final = "diht"
REMEDY: Final = "remove it and run the stage label again"
BEGINNING: Final = 1 << 14
"""Bytes that hold a file's header."""
LENGTH: Final = 8
"""Bytes at the beginning: the length of the header."""
DTYPES: Final[Mapping[str, str]] = {"F16": "float16", "I64": "int64", "BOOL": "bool"}

Header = dict[str, Any]


class FeatureFile(NamedTuple):
    """The features of one shard."""

    uri: str
    config_sha256: str
    """that its header must have."""
    of: str = "this configuration"
    """the set, for a message."""
    remedy: str = REMEDY
    """for a file that does not fit."""

    def check(self, header: Mapping[str, Any]) -> None:
        """Compare the header.

        Raises:
            DataError: the file is of another configuration.
        """
        if header.get("config_sha256") != self.config_sha256:
            tower = f"the image tower {str(header['tower'])[:12]} of {header['source']}" if "tower" in header else ""
            theirs = tower or "another configuration"
            raise DataError(f"{self.uri} holds features of {theirs}, not of {self.of}: {self.remedy}")


def hash64(text: str) -> int:
    """64 bits of SHA-256 as a signed number: the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def write_tensors(storage: Storage, uri: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a whole file with its header."""
    from safetensors.torch import save

    storage.write_bytes(uri, save(dict(tensors), metadata={HEADER: json.dumps(dict(header), sort_keys=True)}))


def read_tensors(storage: Storage, uri: str, remedy: str = REMEDY) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a whole file.

    Raises:
        DataError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = storage.read_bytes(uri)
    try:
        return load(data), header_in(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise damaged(uri, error, remedy) from error


def read_features(storage: Storage, file: FeatureFile) -> tuple[dict[str, Tensor], Header]:
    """Tensors and header of a whole file.

    Raises:
        DataError: the file is damaged, or of another configuration.
    """
    tensors, header = read_tensors(storage, file.uri, file.remedy)
    file.check(header)
    return tensors, header


def header_in(content: bytes) -> Header:
    """The header in the beginning of a file.

    Raises:
        ValueError: there is none.
        KeyError: the file is not ours.
    """
    return json.loads(_entries(content)[0]["__metadata__"][HEADER])


def _entries(content: bytes) -> tuple[dict[str, Any], int]:
    """What safetensors says of each tensor, and where their data begin."""
    begin = LENGTH + int.from_bytes(content[:LENGTH], "little")
    if begin > len(content):
        raise ValueError("its header is too long")
    return json.loads(content[LENGTH:begin]), begin


def damaged(uri: str, error: Exception, remedy: str) -> DataError:
    """The error of a file that cannot be read."""
    return DataError(f"{uri} is damaged ({error}): {remedy}")


@dataclass(frozen=True)
class Column:
    """Where the rows of one tensor lie in a file."""

    dtype: torch.dtype
    width: int
    """numbers of a row."""
    rows: int
    begin: int
    """its first byte."""

    def read(self, storage: Storage, file: FeatureFile, first: int, last: int) -> Tensor:
        """Consecutive rows, by one request.

        Raises:
            DataError: the file is cut.
        """
        import torch

        if first == last:
            return torch.empty(0, dtype=self.dtype)
        size = self.width * self.dtype.itemsize
        data = storage.read_range(file.uri, self.begin + first * size, self.begin + last * size)
        if len(data) != (last - first) * size:
            raise DataError(f"{file.uri} is cut: {file.remedy}")
        found = torch.frombuffer(bytearray(data), dtype=self.dtype)
        return found if self.width == 1 else found.view(-1, self.width)


def read_columns(storage: Storage, file: FeatureFile) -> dict[str, Column]:
    """Where the columns of a file lie; one request.

    Raises:
        DataError: the file is damaged, or of another configuration.
    """
    import torch

    content = storage.read_range(file.uri, 0, BEGINNING)
    try:
        entries, begin = _entries(content)
        file.check(header_in(content))
        return {
            name: Column(
                getattr(torch, DTYPES[entry["dtype"]]),
                math.prod(entry["shape"][1:]),
                entry["shape"][0],
                begin + entry["data_offsets"][0],
            )
            for name, entry in entries.items()
            if name in ("features", "uid_hash", "usable")
        }
    except (ValueError, KeyError) as error:
        raise damaged(file.uri, error, file.remedy) from error


def remove_rows(storage: Storage, uri: str, places: Collection[int], kept: int) -> None:
    """Remove some pairs from a shard's features, if that has not been done.

    Args:
        storage: of the file.
        uri: its name.
        places: of the pairs among the kept ones.
        kept: pairs of the shard before.

    Raises:
        DataError: the file is damaged, or holds other pairs.
    """
    tensors, header = read_tensors(storage, uri)
    found = len(tensors["usable"])
    if found == kept:
        left = [place for place in range(kept) if place not in places]
        write_tensors(storage, uri, {name: rows[left] for name, rows in tensors.items()}, header)
    elif found != kept - len(places):
        raise DataError(f"{uri} has {found} rows for {kept} kept pairs: run the stage label again")
