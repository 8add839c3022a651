"""A caption pass over tables on an object store that disturbs it, and the pass that takes its scores."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diht_k8s.api.run import Stage
from diht_k8s.data.imports import url_tables
from diht_k8s.stages.filter.captions.parser import CaptionParser
from tests.folders import located
from tests.recipe.filter.shards import filter_with, run_of
from tests.recipe.filter.tables import pairs, shard_of, survivors, table_run, write_table
from tests.s3.documents import with_storage
from tests.s3.faults import proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3


def test_tables_on_a_disturbed_server_give_what_tables_on_disk_give(
    store: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_tables, "PART_ROWS", 100)
    monkeypatch.setattr(url_tables, "PART_BYTES", 10_000)
    files = [
        write_table(tmp_path / "a.parquet", pairs(300), row_group_size=150),
        write_table(tmp_path / "b.jsonl", pairs(150, seed=1)),
        write_table(tmp_path / "c.csv", pairs(100, seed=2)),
    ]
    base, direct = f"{store.base}/pool", store.storage()
    for file in files:
        direct.write_bytes(f"{base}/{Path(file).name}", Path(file).read_bytes())
    output = f"{store.base}/captions"
    with proxy_before(store.endpoint) as proxy:
        counts = proxy.set(refuse=0.1, cut=0.2, short=0.2, seed=1).counts
        rule = {**store.rule, "endpointURL": proxy.endpoint}
        there = filter_with(with_storage(table_run(output, f"{base}/*"), rule))
    assert there is not None
    assert counts["refused"] > 0
    here = filter_with(table_run(tmp_path / "out", files))
    assert here is not None
    assert there.summary["shards"] == here.summary["shards"]
    assert len(there.summary["shards"]) > 6
    folder = f"{located(output, direct).stage(Stage.FILTER)}/survivors"
    tables = [pq.read_table(io.BytesIO(direct.read_bytes(f"{folder}/{name}"))) for name in direct.names(folder)]
    assert [row for table in tables for row in table.to_pylist()] == survivors(tmp_path / "out")

    direct.write_bytes(f"{base}/tar/00000.tar", shard_of(survivors(tmp_path / "out")))
    monkeypatch.setattr(CaptionParser, "parse", lambda *_: pytest.fail("a caption was parsed again"))
    rules = {"minActions": 1, "scoresFrom": folder.removesuffix("/survivors")}
    later = filter_with(with_storage(run_of(f"{output}-later", f"{base}/tar/*.tar", rules), store.rule))
    assert later is not None
    assert later.summary["counts"]["kept"] == there.summary["counts"]["kept"]
