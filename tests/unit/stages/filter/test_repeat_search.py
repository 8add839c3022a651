"""Repeats are searched over a whole pool: the same ones however it is cut, shared and interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.filter import deduplication, minhash_forest
from diht_k8s.stages.filter.fingerprints import FEW_BITS
from tests.unit.stages.filter.pools import Pool, alike_pairs, copies, drawn, found_by

KINDS: tuple[Literal["Exact", "Near"], ...] = ("Exact", "Near")
SMALL = {
    "SHARDS_PER_CHUNK": 2,
    "BLOCK_IMAGES": 100,
    "UNIT_RECORDS": 300,
    "PARTITIONS": 8,
    "FOLD_RECORDS": 20,
    "READS": 2,
}


def shards() -> list[np.ndarray]:
    """Originals, equal images, near-duplicates and an empty shard, mixed."""
    rng = np.random.default_rng(1)
    originals = drawn(rng, 300)
    every = np.concatenate([originals, originals[:60], copies(rng, originals[60:150], 0.85)])[rng.permutation(450)]
    return [every[:150], every[150:180], np.empty((0, 4), np.uint64), every[180:430], every[430:]]


def pool_of(folder: Path, kind: Literal["Exact", "Near"]) -> Pool:
    pool = Pool(folder, kind)
    for bits in shards():
        pool.add(bits)
    return pool


def expected(kind: Literal["Exact", "Near"]) -> list[list[int]]:
    every = np.concatenate(shards())
    equal = alike_pairs(every) if kind == "Near" else minhash_forest.earlier_equals(every)
    parts = np.split(equal, np.cumsum([len(bits) for bits in shards()])[:-1])
    return [np.flatnonzero(part).tolist() for part in parts]


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred images go the way of many millions: several chunks, blocks, units, folds."""
    for name, value in SMALL.items():
        monkeypatch.setattr(deduplication, name, value)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "filter/duplicates").rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 3])
def test_pool_in_many_parts_has_the_same_repeats_whatever_the_number_of_workers(
    tmp_path: Path, in_small_parts: None, kind: Literal["Exact", "Near"], workers: int
) -> None:
    pool = pool_of(tmp_path, kind)
    found = found_by([pool.search(worker, workers) for worker in range(workers)], len(pool.shards))
    assert found == expected(kind)
    assert left_in(tmp_path) == ["repeats.parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_search_interrupted_at_any_write_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, in_small_parts: None, monkeypatch: pytest.MonkeyPatch, kind: Literal["Exact", "Near"]
) -> None:
    whole = pool_of(tmp_path / "whole", kind)
    whole.repeats()
    pool, writer, ends = pool_of(tmp_path / "broken", kind), Storage.writer, 0

    def once(storage: Storage, uri: str) -> object:
        nonlocal writes
        writes += 1
        if writes > 1:
            raise StopRequested("killed here")
        return writer(storage, uri)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "writer", once)
        for _ in range(200):
            writes = 0
            try:
                pool.repeats()
                break
            except StopRequested:
                ends += 1
    assert ends > 5
    assert pool.repeats() == expected(kind)
    name = "filter/duplicates/repeats.parquet"
    assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_many_equal_images_are_folded_while_a_partition_is_read(
    tmp_path: Path, in_small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A placeholder that stands for a third of the pool does not fill the memory."""
    sizes, folded = list[int](), deduplication._folded

    def noted(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(sum(map(len, parts)))
        return folded(parts)

    monkeypatch.setattr(deduplication, "_folded", noted)
    pool = Pool(tmp_path, "Near")
    for _ in range(40):
        pool.add(np.repeat(drawn(np.random.default_rng(5), 1), 50, axis=0))
    found = pool.repeats()
    assert sum(map(len, found)) == 40 * 50 - 1
    assert 0 not in found[0]
    assert max(sizes) <= 20 + 2 * 100  # FOLD_RECORDS, and what was read last: the blocks of READS ranges


def test_nearly_empty_images_repeat_nothing(tmp_path: Path) -> None:
    pool = Pool(tmp_path, "Near")
    pool.add(np.repeat(np.packbits(np.arange(256) < FEW_BITS - 1).view(np.uint64)[None], 3, axis=0))
    assert pool.repeats() == [[]]


def test_images_of_late_shards_have_numbers_beyond_32_bits(tmp_path: Path, in_small_parts: None) -> None:
    bits, pool = drawn(np.random.default_rng(6), 2), Pool(tmp_path, "Exact")
    for number in range(9):
        pool.add(bits[[number % 2]])
    assert pool.repeats() == [[], [], *[[0]] * 7]


def test_fingerprints_of_another_configuration_are_refused(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, "Exact")
    other = Pool(tmp_path, "Exact", config="1" * 64)
    other.shards = pool.shards
    with pytest.raises(DataError, match=r"web-000000.parquet belongs to another configuration"):
        other.repeats()


def test_records_that_end_early_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(tmp_path, "Exact")
    pool.search()._share("spread", 1, pool.search()._spread)
    (records,) = tmp_path.rglob("spread/*.bin")
    records.write_bytes(records.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"000000.bin is shorter than its index says"):
        pool.repeats()
