"""An index gives the same samples by ranges as the whole shard, whatever kind of tar it is."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards import shard_index
from diht_k8s.data.shards.samples import DamagedShardError, Sample, read_samples
from diht_k8s.data.shards.shard_index import (
    IndexedDamage,
    ShardIndex,
    StoredIndex,
    index_of,
    part_uri,
    read_range,
    write_part,
    write_rows,
)
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import TarDigest, write_samples
from tests.fuzz.tars import MUTATIONS, case, sound_case

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar(*names: str, kind: str = "ustar", **options: object) -> bytes:
    """A tar of files with these names, each with other data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind], **options) as archive:  # type: ignore[call-overload]
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = f"{number} {name}".encode(errors="replace") * (1 + 40 * number)
            if name.endswith("/"):
                info.type, data = tarfile.DIRTYPE, b""
            if name.endswith(".link"):
                info.type, info.linkname, data = tarfile.SYMTYPE, "elsewhere", b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def whole(path: Path) -> tuple[list[Sample], IndexedDamage | None]:
    samples = list[Sample]()
    try:
        for sample in read_samples(Storage(), str(path)):
            samples.append(sample)  # what came before the damage counts
    except DamagedShardError as error:
        return samples, IndexedDamage(error.reason, error.offset)
    return samples, None


def check_all_ranges(path: Path) -> int:
    """Every range of the shard gives the samples of the whole; the number of samples that ranges give."""
    storage, (samples, damage) = Storage(), whole(path)
    index = index_of(storage, str(path))
    assert index.samples == len(samples)
    assert not samples or index.damage == damage
    if index.starts is None:
        return 0
    assert len(index.starts) == len(samples) + 1
    for first in range(len(samples) + 1):
        for last in range(first, len(samples) + 1):
            found = list(read_range(storage, str(path), index, first, last))
            assert found == samples[first:last], (first, last)
    return len(samples)


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (tar("a.jpg", "a.txt", "b.jpg", "b.txt"), 2),
        (tar("x" * 300 + ".jpg", "x" * 300 + ".txt", "b.jpg", kind="gnu"), 2),
        (tar("é" * 90 + ".jpg", "é" * 90 + ".txt", "b.jpg", kind="pax"), 2),
        (tar("x/" * 60 + "a.jpg", "x/" * 60 + "a.txt", "b.jpg"), 2),
        (tar("a.jpg", "a.jpg", "a.txt", "a.jpg", "b.jpg"), 4),
        (tar("README", "x/", "a.jpg", "LICENSE", "a.txt", "x/notes", "b.jpg", "tail", "x/"), 2),
        (tar("a.jpg", "a.link", "b.jpg"), 2),
        (tar("a.jpg", "BZh9.jpg", "\x1f\x8b.jpg", "\xfd7zXZ.jpg", "b.jpg"), 5),
        (tar(*(f"{number}.jpg" for number in range(12)))[:-10_240], 10),
        (tar("a.jpg", "b.jpg")[:1200], 1),
        (tar("a.jpg"), 1),
    ],
    ids=["ustar", "gnu", "pax", "prefix", "repeated", "keyless", "link", "magic", "no-end", "cut", "one"],
)
def test_ranges_give_the_samples_of_the_whole_shard(tmp_path: Path, data: bytes, samples: int) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    assert check_all_ranges(path) == samples


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(tar("a.jpg", "b.jpg")),
        tar("a.jpg", "b.jpg") + tar("c.jpg"),
        tar("a.jpg", "b.jpg", kind="pax", pax_headers={"comment": "for all"}),
    ],
    ids=["gzip", "joined", "global-header"],
)
def test_shards_whose_bytes_alone_give_no_sample_are_counted_and_have_no_starts(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    index = index_of(Storage(), str(path))
    assert (index.samples, index.starts) == (len(whole(path)[0]), None)


@pytest.mark.parametrize("part", range(len(MUTATIONS)), ids=lambda part: MUTATIONS[part].__name__.strip("_"))
def test_ranges_of_damaged_shards_give_the_samples_before_the_damage(tmp_path: Path, part: int) -> None:
    path = tmp_path / "s.tar"
    for seed in range(part, 12 * len(MUTATIONS), len(MUTATIONS)):
        path.write_bytes(case(seed).data)
        check_all_ranges(path)


def test_ranges_of_sound_shards_of_every_format(tmp_path: Path) -> None:
    path, found = tmp_path / "s.tar", 0
    for seed in range(40):
        path.write_bytes(sound_case(seed).data)
        found += check_all_ranges(path)
    assert found > 100


def test_shard_that_was_replaced_since_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar("a.jpg", "b.jpg"))
    index = index_of(Storage(), str(path))
    path.write_bytes(tar("c.jpg", "d.jpg"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"s\.tar was replaced"):
        list(read_range(Storage(), str(path), index, 0, 1))


@pytest.mark.parametrize(
    "change", [lambda data: bytes(len(data)), lambda data: tar("a.jpg") + data[1024:], lambda data: data[:600]]
)
def test_bytes_that_are_not_those_of_the_index_are_an_error_with_a_remedy(tmp_path: Path, change: object) -> None:
    path, data = tmp_path / "s.tar", tar("a.jpg", "b.jpg", "c.jpg")
    path.write_bytes(data)
    index = index_of(Storage(), str(path))
    path.write_bytes(change(data))  # type: ignore[operator]
    changed = ShardIndex(Storage().identity(str(path)), index.samples, index.starts)
    with pytest.raises(DataError, match=r"s\.tar does not hold the samples of its index .*`diht index`"):
        list(read_range(Storage(), str(path), changed, 0, 3))


def test_a_range_too_long_for_memory_is_read_from_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar("a.jpg", "b.jpg", "c.jpg"))
    monkeypatch.setattr(shard_index, "MAX_RANGE_BYTES", 10)
    assert check_all_ranges(path) == 3


@pytest.mark.parametrize("longest", [1, 90, 200])
def test_written_shards_are_indexed_on_the_way(tmp_path: Path, longest: int) -> None:
    rng, path, storage = random.Random(longest), tmp_path / "s.tar", Storage()
    pairs: list[tuple[str, Mapping[str, bytes]]] = []
    for number in range(40):
        folder = "/".join("d" * rng.randint(1, 60) for _ in range(longest // 60))
        members = {suffix: rng.randbytes(rng.randint(0, 2000)) for suffix in rng.sample(["jpg", "txt", "json"], 2)}
        pairs.append((f"{folder}/{number}".strip("/"), members))
    digest = TarDigest()
    write_samples(storage, str(path), pairs, digest=digest)
    index = index_of(storage, str(path))
    assert index.starts is not None
    assert digest.starts([len(members) for _, members in pairs]) == index.starts.tolist()
    assert digest.starts([1]) is None


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
    monkeypatch.setattr(shard_index, "PAGE_SAMPLES", 100)
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
    monkeypatch.setattr(shard_index, "PAGE_SAMPLES", 1)
    monkeypatch.setattr(shard_index, "CACHED_SAMPLES", 50)
    storage = Counting()
    written(str(tmp_path), storage, [some(number, samples) for number in range(6)])
    book = StoredIndex.open(storage, str(tmp_path))
    assert book is not None
    for number in asked:
        book.find(f"s{number}")
    assert len(storage.ranges) == ranges


@pytest.mark.parametrize("content", [b"", b"x" * 5000, None], ids=["empty", "junk", "other places"])
def test_a_damaged_part_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    rows = write_part(Storage(), str(tmp_path), 0, [("s0", some(0, 50))])
    assert StoredIndex.open(Storage(), str(tmp_path)) is None, "without the table there is no index"
    write_rows(Storage(), str(tmp_path), [rows[0]._replace(samples=49 if content is None else 50)], {})
    if content is not None:
        Path(part_uri(str(tmp_path), 0)).write_bytes(content)
    book = StoredIndex.open(Storage(), str(tmp_path))
    assert book is not None
    with pytest.raises(DataError, match="run `diht index`"):
        book.find("s0")


def test_places_take_few_bytes_a_sample(tmp_path: Path) -> None:
    rows = write_part(Storage(), str(tmp_path), 0, [(f"s{number}", some(number, 10_000)) for number in range(10)])
    assert rows[0].end / 100_000 < 2.5, "100,000 samples of up to 45 KiB"
