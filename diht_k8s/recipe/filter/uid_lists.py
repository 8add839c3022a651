"""Lists of uids, as other tools exchange subsets of a pool, and the keep lists of a run that they stand for.

Two formats. DataComp's `.npy`: a sorted array of uids of 32 hexadecimal digits as two unsigned integers each, NumPy's
dtype `u8,u8` (github.com/mlfoundations/datacomp, `apply_filter.py`). Parquet: one column `uid` of strings, any uids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.filter.scores import open_scores
from diht_k8s.recipe.filter.uid_arrays import UID_DTYPE, pairs_of, uid_numbers
from diht_k8s.recipe.shards.keep_lists import KeepListRow, write_keep_list
from diht_k8s.recipe.shards.sources import input_shards
from diht_k8s.recipe.shards.storage import Storage

_HEXADECIMAL: Final = re.compile("[0-9a-f]{32}")


def write_uids(storage: Storage, uri: str, uids: Iterable[str]) -> int:
    """Write a list of uids, sorted and each once, in the format of its name; returns their number.

    Raises:
        UserError: the name ends in neither .npy nor .parquet, or a uid does not fit into .npy.
    """
    found = sorted(set(uids))
    buffer = io.BytesIO()
    if uri.endswith(".npy"):
        np.save(buffer, _integers(found, uri))
    elif uri.endswith(".parquet"):
        pq.write_table(pa.table({"uid": pa.array(found, pa.string())}), buffer, compression="zstd")
    else:
        raise _unknown(uri)
    storage.write_bytes(uri, buffer.getvalue())
    return len(found)


def read_uids(storage: Storage, uri: str) -> set[str]:
    """The uids of a list in one of the two formats; some 100 bytes of memory each.

    Raises:
        UserError: the name ends in neither .npy nor .parquet.
        DataError: the file is not such a list.
    """
    if not uri.endswith((".npy", ".parquet")):
        raise _unknown(uri)
    data = io.BytesIO(storage.read_bytes(uri))
    try:
        if uri.endswith(".parquet"):
            return set(pq.read_table(data, columns=["uid"])["uid"].to_pylist())
        integers = np.load(data, allow_pickle=False)
        if integers.dtype != UID_DTYPE or integers.ndim != 1:
            raise ValueError(f"dtype {integers.dtype} of {integers.ndim} axes")
        return {f"{high:016x}{low:016x}" for high, low in integers.tolist()}
    except (pa.ArrowException, KeyError, ValueError, EOFError) as error:
        raise DataError(
            f"{uri} is no list of uids ({error}): give one uid column, or an array of dtype u8,u8"
        ) from error


def write_keep_lists(run: DihtRun, uids: Iterable[str], folder: str) -> int:
    """Write the keep list of each raw shard that holds pairs of a selection; returns the number of these pairs.

    Pairs that the filter could not read stay out. The lists go to FOLDER/SHARD.parquet, where `open_pairs` takes them.

    Args:
        run: whose scores name the pairs of each shard.
        uids: of the selection.
        folder: where the lists go.

    Raises:
        UserError: a shard has no scores.
    """
    storage, layout, wanted, count = Storage(run.spec.storage), Layout(run.spec.data.output), frozenset(uids), 0
    for shard in input_shards(run.spec, storage):
        uri = layout.scores(shard.name)
        table = open_scores(storage.read_bytes(uri), uri).file.read(columns=["uid", "reason"])
        rows = zip(table["uid"].to_pylist(), table["reason"].to_pylist(), strict=True)
        listed = [
            KeepListRow(number, uid)
            for number, (uid, reason) in enumerate(rows)
            if uid in wanted and not reason.startswith("bad:")
        ]
        if listed:
            write_keep_list(storage, join(folder, f"{shard.name}.parquet"), listed)
        count += len(listed)
    return count


def _integers(uids: Sequence[str], uri: str) -> np.ndarray:
    odd = next((uid for uid in uids if not _HEXADECIMAL.fullmatch(uid)), None)
    if odd is not None:
        raise UserError(f"{uri}: the uid {odd!r} is not 32 hexadecimal digits: write a list that ends in .parquet")
    return pairs_of(uid_numbers(uids))


def _unknown(uri: str) -> UserError:
    return UserError(f"{uri}: a list of uids ends in .npy or .parquet")
