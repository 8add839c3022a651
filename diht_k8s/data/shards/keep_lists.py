"""Lists of the kept pairs of a raw shard (`filter.output: KeepList`): number in the shard and uid, in order.

DataComp lists uids alone; the number separates two pairs with the same uid, and the uid shows that a shard was
replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage

SCHEMA: Final = pa.schema([("row", pa.int32()), ("uid", pa.string())])


class KeepListRow(NamedTuple):
    """A pair that is kept."""

    row: int
    """its number in the raw shard, bad samples counted."""
    uid: str


def write_keep_list(storage: Storage, uri: str, listed: Iterable[KeepListRow]) -> bytes:
    """Write a list; returns the file's content."""
    table = pa.Table.from_pylist([each._asdict() for each in listed], schema=SCHEMA)
    return write_table(storage, uri, table, {"schema_version": SCHEMA_VERSION})


def read_keep_list(storage: Storage, uri: str) -> list[KeepListRow]:
    """Read a list.

    Raises:
        DataError: the file is not a keep list.
    """
    table, _ = read_table(storage, uri)
    if not set(SCHEMA.names) <= set(table.column_names):
        raise DataError(f"{uri} is not a keep list: run the stage filter again")
    return [KeepListRow(row, uid) for row, uid in zip(table["row"].to_pylist(), table["uid"].to_pylist(), strict=True)]
