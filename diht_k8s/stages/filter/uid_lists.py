"""Uids as numbers: DataComp's list of the kept pairs, and the index by which a later filter finds the scores of a
caption pass.

The list is a sorted `.npy` of uids of 32 hexadecimal digits as two unsigned integers each, of the dtype `u8,u8`
(github.com/mlfoundations/datacomp, `apply_filter.py` and `resharder.py`). `filter/uid_index.npy` has three rows of
64-bit
numbers: the halves of each kept uid, sorted, and the number of its part in the order of the marker. A local index is
mapped; of an object each worker holds it, 24 bytes a pair.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import MARKER, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.samples import Sample, storable
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.stages.filter.scores import Row, from_batches, open_scores

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


def write_uid_list(storage: Storage, uri: str, numbers: NDArray[np.uint64]) -> None:
    """Write the list.

    Args:
        storage: where it goes.
        uri: its name.
        numbers: what `uid_numbers` gives, sorted.
    """
    write_array(storage, uri, np.ascontiguousarray(numbers).view(UID_DTYPE).reshape(-1))


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


def write_kept_uids(run: DihtRun, storage: Storage, uri: str) -> int:
    """Write the uids of the kept pairs, each once; returns their number. It takes 32 bytes of memory for each.

    Args:
        run: whose filter is finished.
        storage: of its output and of the list.
        uri: where the list goes.

    Raises:
        UserError: the filter is not committed, or a uid is not of 32 hexadecimal digits.
    """
    layout = run_layout(run, storage)
    parts = [np.empty((0, 2), np.uint64)]
    for shard in read_committed(storage, layout, Stage.FILTER).summary["shards"]:
        if shard["kept"]:
            parts.append(uid_numbers(_kept_uids(storage, layout.scores(shard["name"]))))
    numbers = np.concatenate(parts)
    numbers = numbers[order_of(numbers)]
    first = np.ones(len(numbers), bool)
    first[1:] = (numbers[1:] != numbers[:-1]).any(axis=1)
    write_uid_list(storage, uri, numbers[first])
    return int(first.sum())


def _kept_uids(storage: Storage, scores: str) -> list[str]:
    table = open_scores(storage.read_bytes(scores), scores).file.read(columns=["uid", "kept"])
    uids: list[str] = table.filter(table["kept"])["uid"].to_pylist()
    odd = next((uid for uid in uids if not is_hex_uid(uid)), None)
    if odd is not None:
        raise UserError(
            f"the uid {odd!r} in {scores} is not of 32 hexadecimal digits: DataComp's list cannot hold it; take the "
            "uids "
            "from the scores, which are Parquet"
        )
    return uids


INDEX: Final = "uid_index.npy"
UID_LIST: Final = "uids.npy"
"""DataComp's list; left out where a uid is not of 32 hex digits."""
CACHED_PARTS: Final = 8
"""Parts whose kept rows are held: img2dataset makes each shard of one part."""


class CaptionScores:
    """The scores of a caption pass, by uid."""

    def __init__(self, storage: Storage, folder: str) -> None:
        """Open; nothing is read before the first question.

        Args:
            storage: where the pass is.
            folder: its filter folder, committed.
        """
        self._storage, self._folder = storage, folder
        self._cache: OrderedDict[int, dict[str, Row]] = OrderedDict()

    @classmethod
    def find(cls, storage: Storage, folder: str | None) -> CaptionScores | None:
        """The scores in a filter folder (`scoresFrom`); None where it is not that of a caption pass."""
        if folder is None or not storage.exists(join(folder, INDEX)):
            return None
        return cls(storage, folder)

    def rows_of(self, samples: Sequence[Sample]) -> list[Row | None]:
        """For each sample its row as an earlier row of the same pair; None for a pair that the pass did not keep."""
        uids = [storable(sample.uid) for sample in samples]
        found = list[Row | None]()
        for sample, uid, part in zip(samples, uids, self._parts_of(uids), strict=True):
            row = None if part is None else self._part(part).get(uid)
            # kept is false: it would say that the image was read
            found.append(None if row is None else replace(row, shard="", index=storable(sample.key), kept=False))
        return found

    def _parts_of(self, uids: Sequence[str]) -> list[int | None]:
        """The part in which each uid was kept."""
        high, low, parts = self._index
        wanted = uid_numbers(uids)
        first, last = (np.searchsorted(high, wanted[:, 0], side=side) for side in ("left", "right"))
        found: list[int | None] = [None] * len(uids)
        for number, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            place = start + int(np.searchsorted(low[start:stop], wanted[number, 1]))
            if place < stop and low[place] == wanted[number, 1]:
                found[number] = int(parts[place])
        return found

    @cached_property
    def _index(self) -> NDArray[np.uint64]:
        return read_array(self._storage, join(self._folder, INDEX))

    @cached_property
    def _names(self) -> list[str]:
        marker = json.loads(self._storage.read_bytes(join(self._folder, MARKER)))
        return [shard["name"] for shard in marker["summary"]["shards"]]

    def _part(self, number: int) -> dict[str, Row]:
        if number not in self._cache:
            uri = join(self._folder, "scores", f"{self._names[number]}.parquet")
            table = open_scores(self._storage.read_bytes(uri), uri).file.read()
            rows = from_batches(table.filter(pc.field("kept")).to_batches(1024))
            self._cache[number] = {row.uid: row for row in rows}
            if len(self._cache) > CACHED_PARTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


def write_index(storage: Storage, folder: str, uids: Sequence[Sequence[str]]) -> list[str]:
    """Write the index of the kept pairs and DataComp's list of their uids; returns the names of the files.

    Args:
        storage: where they go.
        folder: the filter folder.
        uids: of each part, in the order of the marker.
    """
    numbers = uid_numbers(uid for part in uids for uid in part)
    parts = np.repeat(np.arange(len(uids), dtype=np.uint64), [len(part) for part in uids])
    order = order_of(numbers)
    numbers, parts = numbers[order], parts[order]
    write_array(storage, join(folder, INDEX), np.stack([numbers[:, 0], numbers[:, 1], parts]))
    if not all(is_hex_uid(uid) for part in uids for uid in part):
        return [INDEX]
    write_uid_list(storage, join(folder, UID_LIST), numbers)
    return [INDEX, UID_LIST]
