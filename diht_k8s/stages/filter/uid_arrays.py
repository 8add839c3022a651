"""Uids as numbers, and lists of them as DataComp's tools read them: a sorted `.npy` of pairs of 64-bit halves of 32 hex digits."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.data.shards.storage import Storage

UID_DTYPE: Final = np.dtype("u8,u8")
_HEX: Final = re.compile(r"[0-9a-fA-F]{32}")


def is_hex_uid(uid: str) -> bool:
    """Whether a uid can stand in such a list."""
    return _HEX.fullmatch(uid) is not None


def uid_numbers(uids: Iterable[str]) -> NDArray[np.uint64]:
    """Two numbers for each uid, shape (N, 2): the halves of its 32 hex digits, of other uids those of a SHA-256."""
    digits = (uid if is_hex_uid(uid) else hashlib.sha256(uid.encode()).hexdigest()[:32] for uid in uids)
    found = np.frombuffer(bytes.fromhex("".join(digits)), dtype=">u8").astype(np.uint64)
    return found.reshape(-1, 2)


def pairs_of(numbers: NDArray[np.uint64]) -> NDArray[np.void]:
    """Numbers from `uid_numbers` as DataComp's array of pairs, shape (N,)."""
    return np.ascontiguousarray(numbers).view(UID_DTYPE).reshape(-1)


def write_uid_list(storage: Storage, uri: str, numbers: NDArray[np.uint64]) -> None:
    """Write the list.

    Args:
        storage: where it goes.
        uri: its name.
        numbers: what `uid_numbers` gives, sorted.
    """
    write_array(storage, uri, pairs_of(numbers))


def write_array(storage: Storage, uri: str, array: NDArray[Any]) -> None:
    """Write an array as `.npy`."""
    with storage.writer(uri) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def read_array(storage: Storage, uri: str) -> NDArray[Any]:
    """An array of a `.npy`; a local file is mapped, not read."""
    path = storage.local_path(uri)
    if path is not None:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)


def order_of(numbers: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Indices that sort what `uid_numbers` gives."""
    return np.lexsort((numbers[:, 1], numbers[:, 0]))
