"""Parquet tables with a header: schema version and configuration travel inside the file."""

from __future__ import annotations

import io
import json
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage

HEADER_KEY: Final = b"diht"


def write_table(storage: Storage, uri: str, table: pa.Table, header: dict[str, Any]) -> bytes:
    """Write a table with its header; the same table gives the same bytes, which are returned."""
    metadata = {HEADER_KEY: json.dumps(header, sort_keys=True).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    data = buffer.getvalue()
    storage.write_bytes(uri, data)
    return data


def row_count(content: bytes) -> int:
    """Rows of a table by its footer."""
    return pq.read_metadata(pa.BufferReader(content)).num_rows


def read_table(storage: Storage, uri: str, columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """A table and its header.

    Raises:
        DataError: the file is not a table of this project.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(storage.read_bytes(uri)))
        header = json.loads((file.schema_arrow.metadata or {})[HEADER_KEY])
        return file.read(columns=columns), header
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(
            f"{uri} is not a table of this project or is damaged ({error}): remove it and run the stage again"
        ) from error
