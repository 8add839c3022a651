"""Soft labels: each image's k likeliest classes of both heads, one Parquet file per kept shard.

In: probabilities of the heads. Out: `label/labels/SHARD.parquet`, rows in the order of the kept pairs: uid, ids
(uint16) and probabilities (fp16) of both heads, null if the image has no label. Probabilities are renormalised, and
reading does it again in float32, since the fp16 sum is off by up to 4e-4. Heads that may say nothing
(`label.minProbability`) keep theirs: what is not said is 0, a row of zeros says nothing, and the sum of a row is what
it is.

Shapes: N images of a shard, B of a batch, C classes, K stored classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage

HEADS: Final = ("object", "attribute")


@dataclass(frozen=True)
class HeadLabels:
    """The stored classes of one head, likeliest first."""

    ids_NK: npt.NDArray[np.int64]
    probabilities_NK: npt.NDArray[np.float32]
    """each row sums to 1, or to anything where a head may say nothing; all 0 where the image has no label."""


@dataclass(frozen=True)
class Labels:
    """The soft labels of one shard, rows in its order."""

    uids: list[str]
    has_label_N: npt.NDArray[np.bool_]
    objects: HeadLabels
    attributes: HeadLabels
    header: Mapping[str, Any]
    """schema_version, config_sha256, inputs, vocabulary_sha256, top_k; min_probability where the heads may say
    nothing.
    """


def top_k(
    probabilities_BC: npt.NDArray[np.float32], k: int, least: float = 0.0
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float16]]:
    """The k likeliest classes, likeliest first (of equals the smaller id), renormalised to sum 1.

    With a `least` probability, what is below it becomes 0 and the rest stays as it is.

    Returns:
        ids (B, K) and probabilities (B, K).
    """
    cut_B1 = -np.partition(-probabilities_BC, k - 1, axis=1)[:, k - 1 : k]
    above_BC, equal_BC = probabilities_BC > cut_B1, probabilities_BC == cut_B1
    open_B1 = k - above_BC.sum(axis=1, keepdims=True)
    chosen_BC = above_BC | (equal_BC & (equal_BC.cumsum(axis=1) <= open_B1))
    ids_BK = np.nonzero(chosen_BC)[1].reshape(len(probabilities_BC), k)
    kept_BK = np.take_along_axis(probabilities_BC, ids_BK, axis=1).astype(np.float64)
    order_BK = np.argsort(-kept_BK, axis=1, kind="stable")
    ids_BK, kept_BK = (np.take_along_axis(array, order_BK, axis=1) for array in (ids_BK, kept_BK))
    said_BK = kept_BK * (kept_BK >= least) if least > 0 else kept_BK / kept_BK.sum(axis=1, keepdims=True)
    return ids_BK.astype(np.uint16), said_BK.astype(np.float16)


def write_labels(
    storage: Storage,
    uri: str,
    uids: Sequence[str],
    has_label_N: npt.NDArray[np.bool_],
    heads: Sequence[tuple[npt.NDArray[np.uint16], npt.NDArray[np.float16]]],
    header: Mapping[str, Any],
) -> None:
    """Write one shard's labels; `heads` are ids and probabilities of objects, then of attributes."""
    columns: dict[str, pa.Array] = {"uid": pa.array(uids, pa.string())}
    for name, (ids_NK, probabilities_NK) in zip(HEADS, heads, strict=True):
        columns[f"{name}_ids"] = _lists(ids_NK, has_label_N)
        columns[f"{name}_probabilities"] = _lists(probabilities_NK, has_label_N)
    write_table(storage, uri, pa.table(columns), dict(header))


def _lists(values_NK: npt.NDArray[Any], has_label_N: npt.NDArray[np.bool_]) -> pa.Array:
    """One list a row, null where an image has no label."""
    lengths = np.where(has_label_N, values_NK.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(values_NK[has_label_N].ravel())
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~has_label_N))


class LabelTable:
    """The soft labels of one shard as they are stored, of which some rows are taken at a time."""

    def __init__(self, table: pa.Table, header: Mapping[str, Any], uri: str) -> None:
        self._table, self.header, self._uri = table, header, uri

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._table.nbytes

    def rows(self, first: int, last: int) -> Labels:
        """The labels of consecutive rows.

        Raises:
            DataError: the file holds lists of other lengths than its header says.
        """
        table = self._table.slice(first, last - first)
        has_label_N = table["object_ids"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        width = int(self.header["top_k"])
        objects, attributes = (_head(table, name, has_label_N, width, self._uri) for name in HEADS)
        if not self.header.get("min_probability"):
            objects, attributes = _renormalised(objects), _renormalised(attributes)
        return Labels(table["uid"].to_pylist(), has_label_N, objects, attributes, self.header)


def read_label_table(storage: Storage, uri: str) -> LabelTable:
    """The stored soft labels of one shard.

    Args:
        storage: reads the file.
        uri: `label/labels/SHARD.parquet` (see `Layout.labels`).

    Raises:
        DataError: the file is damaged, no label file, or of another schema.
    """
    table, header = read_table(storage, uri)
    if header.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{uri} has schema_version {header.get('schema_version')}, this program reads {SCHEMA_VERSION}: "
            "use the version of the program that wrote it, or run the stage label again"
        )
    missing = {"uid", *(f"{name}_{part}" for name in HEADS for part in ("ids", "probabilities"))} - {
        *table.column_names
    }
    if missing:
        raise DataError(f"{uri} has no column {min(missing)}: it is not a label file of this project")
    return LabelTable(table, header, uri)


def read_labels(storage: Storage, uri: str) -> Labels:
    """All soft labels of one shard (see `read_label_table`)."""
    table = read_label_table(storage, uri)
    return table.rows(0, len(table))


def _head(table: pa.Table, name: str, has_label_N: npt.NDArray[np.bool_], width: int, uri: str) -> HeadLabels:
    ids_NK = np.zeros((len(has_label_N), width), np.int64)
    probabilities_NK = np.zeros((len(has_label_N), width), np.float32)
    for part, target in (("ids", ids_NK), ("probabilities", probabilities_NK)):
        values = table[f"{name}_{part}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if len(values) != int(has_label_N.sum()) * width:
            raise DataError(f"{uri}: {name}_{part} does not hold {width} values a row: run the stage label again")
        target[has_label_N] = values.reshape(-1, width)
    return HeadLabels(ids_NK, probabilities_NK)


def _renormalised(head: HeadLabels) -> HeadLabels:
    """Rows that sum to 1 in float32, but for those of images without a label."""
    sums_N1 = head.probabilities_NK.sum(axis=1, keepdims=True)
    sums_N1[sums_N1 == 0] = 1
    return HeadLabels(head.ids_NK, head.probabilities_NK / sums_N1)
