from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.data.shards.samples import (
    MAX_CAPTION_BYTES,
    Sample,
    img2dataset_count,
    make_sample,
    read_samples,
    weighted_captions,
)
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import ContentDigest, write_samples
from diht_k8s.stages.train.data.augment import drawn_caption

IMAGE = b"\x89PNG image"


def tar_of(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(path: Path, data: bytes) -> list[tuple[str, str, str | None]]:
    path.write_bytes(data)
    return [(sample.key, sample.caption, sample.problem) for sample in read_samples(Storage(), str(path))]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.png", IMAGE), ("a.txt", b"a dog")], ("a", "a dog", None)),
        ([("a.txt", b"a dog"), ("a.png", IMAGE)], ("a", "a dog", None)),
        ([("x/a.b.png", IMAGE)], ("x/a", "", "picture_missing")),
        ([("x/a.JPG", IMAGE), ("x/a.json", b'{"caption": "a  dog\\n"}')], ("x/a", "a dog", None)),
        ([("a.webp", IMAGE), ("a.json", b'{"text": "a dog"}')], ("a", "a dog", None)),
        ([("a.png", IMAGE), ("a.txt", b"txt wins"), ("a.json", b'{"caption": "json"}')], ("a", "txt wins", None)),
        ([("a.txt", b"a dog")], ("a", "a dog", "picture_missing")),
        ([("a.png", b""), ("a.txt", b"a dog")], ("a", "a dog", "picture_empty")),
        ([("a.png", IMAGE)], ("a", "", "caption_missing")),
        ([("a.png", IMAGE), ("a.txt", b" \n ")], ("a", "", "caption_empty")),
        ([("a.png", IMAGE), ("a.txt", b"\xff\xfe")], ("a", "", "caption_not_utf8")),
        ([("a.png", IMAGE), ("a.json", b'{"caption": "\\ud800"}')], ("a", "", "caption_not_utf8")),
        ([("a.png", IMAGE), ("a.txt", b"x" * 1_000_000)], ("a", "", "caption_too_long")),
        ([("a.png", IMAGE), ("a.txt", b"x" * MAX_CAPTION_BYTES)], ("a", "x" * MAX_CAPTION_BYTES, None)),
        ([("a.png", IMAGE), ("a.json", b"{")], ("a", "", "json_unreadable")),
        ([("a.png", IMAGE), ("a.txt", b"a dog"), ("a.json", b"{")], ("a", "a dog", None)),
        ([("a.png", IMAGE), ("a.json", b"[1]")], ("a", "", "json_unreadable")),
        ([("a.png", IMAGE), ("a.json", b"[" * 100_000)], ("a", "", "json_unreadable")),
        ([("a.png", IMAGE), ("a.json", b'{"caption": 5}')], ("a", "", "caption_no_text")),
    ],
)
def test_sample_is_read_or_has_its_reason(
    tmp_path: Path, members: list[tuple[str, bytes]], expected: tuple[str, str, str | None]
) -> None:
    assert read(tmp_path / "s.tar", tar_of(members)) == [expected]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no samples|damaged after 0"),
        (tar_of([]), "holds no samples"),
        (tar_of([("README", b"x")]), "holds no samples"),
        (b"no tar at all" * 100, "damaged after 0 samples"),
        (
            tar_of([("a.png", IMAGE), ("a.txt", b"a dog"), ("b.txt", b"a cat"), ("b.png", IMAGE * 1000)])[:5000],
            "damaged after 1 samples",
        ),
        (
            gzip.compress(tar_of([("a.png", bytes(range(256)) * 50), ("a.txt", b"a dog")]))[:150],
            "damaged after 0 samples",
        ),
        (tar_of([("a.png", IMAGE), ("a.txt", b"a dog"), ("b.txt", b"a cat"), ("b.png", IMAGE)])[:2048], "end mark"),
    ],
    ids=["zero bytes", "no members", "no samples", "no tar", "truncated", "truncated gzip", "cut between members"],
)
def test_damaged_shard_is_a_data_error_that_names_the_shard(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path / "s.tar", data)
    assert "s.tar" in str(raised.value)


def test_disk_that_fails_while_a_shard_is_read_is_retryable_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = tmp_path / "shard.tar"
    storage = Storage()
    write_samples(storage, str(shard), [("0", {"txt": b"a", "png": b"x"})])

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("diht_k8s.data.shards.tar_reader._PlainBytes.read", fails)
    with pytest.raises(RetryableError, match="Input/output error"):
        list(read_samples(storage, str(shard)))


def test_member_above_the_limit_is_bad_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diht_k8s.data.shards.samples.MAX_MEMBER_BYTES", 100)
    data = tar_of([("a.png", b"x" * 101), ("a.txt", b"big"), ("b.png", IMAGE), ("b.txt", b"small")])
    assert read(tmp_path / "s.tar", data) == [("a", "big", "member_too_large"), ("b", "small", None)]


def test_sample_above_the_limit_is_bad_and_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diht_k8s.data.shards.samples.MAX_SAMPLE_BYTES", 100)
    path = tmp_path / "s.tar"
    path.write_bytes(
        tar_of([("a.png", b"x" * 60), ("a.npy", b"x" * 60), ("a.txt", b"big"), ("b.png", b"x"), ("b.txt", b"s")])
    )
    first, second = read_samples(Storage(), str(path))
    assert (first.problem, set(first.members.values()), second.problem) == ("member_too_large", {b""}, None)


def test_uid_is_the_samples_own_or_a_hash_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(
        tar_of(
            [
                ("a.png", IMAGE),
                ("a.json", b'{"caption": "x", "uid": "u1"}'),
                ("b.png", IMAGE),
                ("b.txt", b"x"),
                ("c.png", IMAGE),
                ("c.txt", b"x"),
            ]
        )
    )
    first, second, third = (sample.uid for sample in read_samples(Storage(), str(path)))
    assert first == "u1"
    assert second == third
    assert len(second) == 32


def test_damaged_name_without_content_has_a_uid(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of([("\udcc3.txt", b"")]))
    (sample,) = read_samples(Storage(), str(path))
    assert (sample.key, len(sample.uid)) == ("\udcc3", 32)


def test_shards_are_written_byte_for_byte_as_plain_tars_without_owner_and_time(tmp_path: Path) -> None:
    """By webdataset's writer, and as this project wrote them before it used that."""
    samples = {
        "0": {"jpg": b"image" * 5000, "txt": b"dog", "json": b"{}"},
        "folder/ä": {"seg.png": b"x", "_note": b"kept"},
        "long" * 20 + "/" + "name" * 20: {"txt": b""},
    }
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix in sorted(members):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                tar.addfile(info, io.BytesIO(members[suffix]))
    digest = ContentDigest()
    assert write_samples(Storage(), f"{tmp_path}/0.tar", samples.items(), digest=digest) == 3
    written = (tmp_path / "0.tar").read_bytes()
    assert written == expected.getvalue()
    assert (digest.size, digest.sha256) == (len(written), hashlib.sha256(written).hexdigest())


def test_members_that_webdataset_cannot_hold_are_left_out(tmp_path: Path) -> None:
    members = {"": b"no suffix", "__key__": b"another key", "txt": b"dog"}
    write_samples(Storage(), f"{tmp_path}/0.tar", [("0", members)])
    (sample,) = read_samples(Storage(), f"{tmp_path}/0.tar")
    assert (sample.key, sample.members) == ("0", {"txt": b"dog"})


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, []),
        ({"captions": "a red fox"}, []),
        ({"captions": []}, []),
        ({"captions": [" a  red\nfox ", "fox"]}, [("a red fox", 1.0), ("fox", 1.0)]),
        ({"captions": ["a", "b"], "caption_weights": [3, 0.5]}, [("a", 3.0), ("b", 0.5)]),
        ({"captions": ["a", "b"], "caption_weights": [3]}, [("a", 1.0), ("b", 1.0)]),
        ({"captions": ["a", "b"], "caption_weights": "31"}, [("a", 1.0), ("b", 1.0)]),
        ({"captions": ["a", "b", "c", "d", "e"], "caption_weights": [0, -1, float("nan"), float("inf"), True]}, []),
        ({"captions": ["a", 7, None, "", " ", "\ud800", "x" * (MAX_CAPTION_BYTES + 1)]}, [("a", 1.0)]),
    ],
)
def test_captions_when_listed_then_those_that_can_be_used_with_their_weights(
    meta: dict[str, Any], expected: list[tuple[str, float]]
) -> None:
    assert weighted_captions(meta) == expected


def pair(meta: dict[str, Any], text: str | None = None, uid: str = "u") -> Sample:
    members = {"png": b"x", "json": json.dumps({"uid": uid, **meta}).encode()}
    return make_sample("k", members if text is None else {**members, "txt": text.encode()})


def test_pair_when_it_has_a_list_alone_then_its_caption_is_the_first_that_can_be_used() -> None:
    assert (pair({"captions": [3, "a red fox"]}).caption, pair({"captions": [3, "a red fox"]}).problem) == (
        "a red fox",
        None,
    )
    assert pair({"captions": [3]}).problem == "caption_missing"
    assert pair({"captions": ["a"], "caption": "b"}).caption == "b"
    assert pair({"captions": ["a"]}, text="c").caption == "c"


def test_draw_when_captions_have_weights_then_follows_them() -> None:
    meta = {"captions": ["often", "seldom", "never"], "caption_weights": [3, 1, 0]}
    drawn = Counter(drawn_caption(pair(meta, uid=str(n)), seed=0, epoch=0) for n in range(2000))
    assert set(drawn) == {"often", "seldom"}
    assert drawn["often"] / 2000 == pytest.approx(0.75, abs=0.04)  # four standard deviations


def test_draw_when_repeated_then_the_same_and_other_in_other_epochs_seeds_and_pairs() -> None:
    captions = {"captions": [f"caption {n}" for n in range(1000)]}

    def drawn(*, seed: int = 0, epoch: int = 0, uid: str = "u") -> str:
        return drawn_caption(pair(captions, uid=uid), seed=seed, epoch=epoch)

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=1), drawn(epoch=1), drawn(uid="v")}) == 4


def test_draw_when_there_is_nothing_to_draw_from_then_the_pairs_own_caption() -> None:
    assert drawn_caption(pair({"caption": "own", "captions": [1, ""]}), seed=0, epoch=0) == "own"
    assert drawn_caption(pair({"caption": "own", "captions": ["other"]}), seed=0, epoch=0) == "other"
    bad = make_sample("k", {"json": b'{"captions": ["a", "b"]}'})
    assert (bad.problem, drawn_caption(bad, seed=0, epoch=0)) == ("picture_missing", bad.caption)


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
