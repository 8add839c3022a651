"""The number of pairs of a shard by the files that img2dataset leaves beside it; the shard is not read.

`NAME_stats.json` counts the pairs that were fetched; `NAME.parquet` has a row for each pair that was asked for.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.json_types import is_object
from diht_k8s.data.shards.storage import Storage


def img2dataset_count(storage: Storage, uri: str) -> int | None:
    """The number of pairs of a shard by the files of img2dataset; None where there are none, or none that states it.

    Args:
        storage: where the shard is.
        uri: of the shard; its name up to the first dot names the files.
    """
    folder, slash, name = uri.rpartition("/")
    stem = f"{folder}{slash}{name.partition('.')[0]}"
    if storage.exists(f"{stem}_stats.json"):
        return stated_successes(storage.read_bytes(f"{stem}_stats.json"))
    if storage.exists(f"{stem}.parquet"):
        return _rows(storage.read_bytes(f"{stem}.parquet"))
    return None


def stated_successes(content: bytes) -> int | None:
    """The number of pairs that a `NAME_stats.json` states; None if it states none."""
    try:
        stats: Any = json.loads(content)
    except ValueError:
        return None
    found = stats.get("successes") if is_object(stats) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _rows(content: bytes) -> int | None:
    try:
        status = pq.read_table(io.BytesIO(content), columns=["status"])["status"]
        return status.to_pylist().count("success")
    except (pa.ArrowException, OSError, KeyError):
        return None
