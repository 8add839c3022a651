"""The index of many shards: written in parts, read page by page, and damage of its own named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards import stored_index
from diht_k8s.data.shards.shard_index import IndexedDamage, ShardIndex
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.stored_index import StoredIndex, part_uri, write_part, write_rows


def some(number: int, samples: int) -> ShardIndex:
    sizes = np.random.default_rng(number).integers(1, 90, samples + 1) * 512
    return ShardIndex(f"{number}-e", samples, np.cumsum(sizes) - sizes[0])


class Counting(Storage):
    """Notes the ranges that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[str] = []

    def read_range(self, uri: str, begin: int, end: int, identity: str = "") -> bytes:
        self.ranges.append(f"{uri} {begin}-{end}")
        return super().read_range(uri, begin, end, identity)


def written(folder: str, storage: Storage, indexes: list[ShardIndex]) -> None:
    rows = []
    for part in range(0, len(indexes), 3):
        named = [(f"s{number}", index) for number, index in enumerate(indexes)][part : part + 3]
        rows += write_part(storage, folder, part // 3, named)
    write_rows(storage, folder, rows, {"sources": "x"})


def test_a_book_gives_every_index_back_and_reads_each_page_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_index, "PAGE_SAMPLES", 100)
    indexes = [some(number, samples) for number, samples in enumerate([40, 60, 50, 300, 0, 1, 7])]
    indexes[5] = ShardIndex("packed", 9)
    indexes[6] = ShardIndex("cut", 7, indexes[6].starts, IndexedDamage("it was cut off", 999))
    storage = Counting()
    written(str(tmp_path), storage, indexes)
    book = StoredIndex.open(storage, str(tmp_path))
    assert book is not None
    assert book.header["sources"] == "x"
    for _ in range(2):
        for number, index in enumerate(indexes):
            found = book.find(f"s{number}")
            assert found is not None
            assert (found.identity, found.samples, found.damage) == (index.identity, index.samples, index.damage)
            assert (found.starts is None) == (index.starts is None)
            if index.starts is not None and found.starts is not None:
                assert found.starts.tolist() == index.starts.tolist()
    assert len(storage.ranges) == len(set(storage.ranges)) == 5
    assert book.find("unknown") is None
    assert [row.samples for row in book.rows.values()] == [40, 60, 50, 300, 0, 9, 7]


@pytest.mark.parametrize(
    ("samples", "asked", "ranges"),
    [(20, (0, 1, 0, 1, 2, 0), 4), (20, (0, 1, 0, 2, 0), 3), (80, (0, 0, 1, 1), 2)],
    ids=["third page", "page used last", "page above the bound"],
)
def test_pages_beyond_the_bound_of_memory_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, asked: tuple[int, ...], ranges: int
) -> None:
    monkeypatch.setattr(stored_index, "PAGE_SAMPLES", 1)
    monkeypatch.setattr(stored_index, "CACHED_SAMPLES", 50)
    storage = Counting()
    written(str(tmp_path), storage, [some(number, samples) for number in range(6)])
    book = StoredIndex.open(storage, str(tmp_path))
    assert book is not None
    for number in asked:
        book.find(f"s{number}")
    assert len(storage.ranges) == ranges


def test_no_table_means_no_index(tmp_path: Path) -> None:
    write_part(Storage(), str(tmp_path), 0, [("s0", some(0, 5))])
    assert StoredIndex.open(Storage(), str(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"x" * 5000])
def test_a_damaged_part_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    written(str(tmp_path), Storage(), [some(0, 50)])
    Path(part_uri(str(tmp_path), 0)).write_bytes(content)
    book = StoredIndex.open(Storage(), str(tmp_path))
    assert book is not None
    with pytest.raises(DataError, match="run `diht index`"):
        book.find("s0")


def test_a_part_with_other_places_than_the_table_counts_is_damaged(tmp_path: Path) -> None:
    rows = write_part(Storage(), str(tmp_path), 0, [("s0", some(0, 50))])
    write_rows(Storage(), str(tmp_path), [rows[0]._replace(samples=49)], {})
    book = StoredIndex.open(Storage(), str(tmp_path))
    assert book is not None
    with pytest.raises(DataError, match="run `diht index`"):
        book.find("s0")


def test_places_take_few_bytes_a_sample(tmp_path: Path) -> None:
    rows = write_part(Storage(), str(tmp_path), 0, [(f"s{number}", some(number, 10_000)) for number in range(10)])
    assert rows[0].end / 100_000 < 2.5, "100,000 samples of up to 45 KiB"
