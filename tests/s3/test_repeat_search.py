"""Repeated images are searched on each object store while its answers break off: the same ones as on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diht_k8s.stages.filter import deduplication
from tests.s3.faults import proxy_before
from tests.s3.server import S3
from tests.unit.stages.filter.pools import Pool, copies, drawn

pytestmark = pytest.mark.s3


def test_pool_on_a_store_when_disturbed_then_the_repeats_of_a_disk(
    tmp_path: Path, store: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deduplication, "UNIT_RECORDS", 2000)
    monkeypatch.setattr(deduplication, "SHARDS_PER_CHUNK", 2)
    rng = np.random.default_rng(1)
    originals = drawn(rng, 300)
    shards = np.split(np.concatenate([originals, originals[:50], copies(rng, originals[50:150], 0.85)]), 5)
    with proxy_before(store.endpoint) as proxy:
        storage = store.storage(proxy.endpoint)
        proxy.set(refuse=0.05, cut=0.1, short=0.1, seed=1)
        pools = [Pool(f"{tmp_path}/out", "Near"), Pool(f"{store.base}/repeats", "Near", storage=storage)]
        for pool in pools:
            for bits in shards:
                pool.add(bits)
        on_disk, there = (pool.repeats() for pool in pools)
        assert storage.files(f"{store.base}/repeats/filter/duplicates") == ["repeats.parquet"]
    assert there == on_disk
    assert sum(map(len, on_disk)) == 150
