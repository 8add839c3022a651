"""Counts that img2dataset leaves beside its shards."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diht_k8s.data.shards.img2dataset_stats import img2dataset_count
from diht_k8s.data.shards.storage import Storage


def parquet(**columns: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("00001_stats.json", json.dumps({"count": 9, "successes": 7}).encode(), 7),
        ("00001.parquet", parquet(status=["success", "failed_to_download", "success"], key=["0", "1", "2"]), 2),
        ("00001_stats.json", b"{", None),
        ("00001_stats.json", b'{"successes": true}', None),
        ("00001_stats.json", b'{"successes": -1}', None),
        ("00001.parquet", parquet(key=["0"]), None),
        ("00001.parquet", b"no table", None),
        ("00002_stats.json", b'{"successes": 7}', None),
    ],
)
def test_counts_beside_a_shard(tmp_path: Path, name: str, content: bytes, expected: int | None) -> None:
    (tmp_path / name).write_bytes(content)
    assert img2dataset_count(Storage(), f"{tmp_path}/00001.tar") == expected
