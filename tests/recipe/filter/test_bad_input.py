"""Bad input is counted by reason, or ends the stage with its exit code and a line that tells what to do."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.data.shards import samples
from tests.recipe.filter.shards import (
    CAPTIONS,
    drawn,
    encoded,
    filter_with,
    pair,
    rows_of,
    run_of,
    tar_of,
    write_shards,
)

GOOD = "a small dog chasing a red ball"


def bomb() -> bytes:
    """A PNG of a few bytes that claims 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def clear_palette() -> bytes:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(image, transparency=1)


def animated() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", (64, 32), "red"), "JPEG", exif=exif.tobytes())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (pair("x", GOOD, b""), "picture_empty"),
        ([("x.jpg", b"this is a text"), ("x.txt", GOOD.encode())], "picture_unreadable"),
        (pair("x", GOOD, drawn(size=(1, 1))), "picture_too_small"),
        (pair("x", GOOD, bomb()), "picture_too_large"),
        (pair("x", GOOD, drawn()[:-60]), "picture_unreadable"),
        ([("x.txt", GOOD.encode())], "picture_missing"),
        ([("x.png", drawn())], "caption_missing"),
        (pair("x", b""), "caption_empty"),
        (pair("x", b"\xff\xfe\xfd"), "caption_not_utf8"),
        (pair("x", b"dog " * 250_000), "caption_too_long"),
        ([("x.png", drawn()), ("x.json", b"{")], "json_unreadable"),
        (pair("x" * 260, GOOD), "name_too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_sample_is_counted_by_reason_and_skipped(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str
) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([*pair("a", GOOD), *members, *pair("z", GOOD)]))
    committed = filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"maxBadPercent": 50.0}))
    assert committed is not None
    assert committed.summary["counts"] == {"input": 3, "kept": 2, "bad": {reason: 1}, "dropped": {}}
    assert [row.reason for row in rows_of(tmp_path / "out", "web-a")] == ["", f"bad:{reason}", ""]


def test_member_over_the_limit_is_bad_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_MEMBER_BYTES", 1 << 20)
    members = [*pair("a", GOOD, drawn() + b"x" * (1 << 20)), *pair("b", GOOD)]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    committed = filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"maxBadPercent": 50.0}))
    assert committed is not None
    assert committed.summary["counts"] == {"input": 2, "kept": 1, "bad": {"member_too_large": 1}, "dropped": {}}


@pytest.mark.parametrize(
    "image",
    [
        encoded(Image.new("CMYK", (32, 32)), "JPEG"),
        animated(),
        clear_palette(),
        turned(),
        encoded(Image.new("LA", (32, 32))),
        encoded(Image.new("I;16", (32, 32))),
        encoded(Image.new("1", (32, 32))),
    ],
    ids=["CMYK", "animated", "palette with transparency", "EXIF rotation", "grey with alpha", "16 bit", "1 bit"],
)
def test_unusual_image_is_kept(tmp_path: Path, image: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(pair("a", GOOD, image)))
    rules = {"textSpotting": {"mode": "Drop", "detectorSize": 96}}
    committed = filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", rules))
    assert committed is not None
    assert committed.summary["counts"]["kept"] == 1


@pytest.mark.parametrize(
    "caption",
    [
        "🙂🙂🙂",
        "\u202egod llams",
        "的 小狗",
        "a " * 2000,
        "((((",
        "'s 's 's",
        "A",
        "1 2 3",
        "\x00\x01 dog",
        "«»—…",
        "dog\u2028cat",
    ],
    ids=range(11),
)
def test_strange_caption_is_scored_without_an_error(tmp_path: Path, caption: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([*pair("a", GOOD), *pair("b", caption)]))
    assert filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"maxBadPercent": 50.0})) is not None
    assert len(rows_of(tmp_path / "out", "web-a")) == 2


def test_share_of_bad_samples_above_the_limit_stops_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([*pair("a", GOOD), *pair("b", b""), *pair("c", GOOD, b"")]))
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar")
    with pytest.raises(
        DataError, match=r"2 of 3 samples are bad \(caption_empty 1, picture_empty 1\), 66.7 % .*maxBadPercent 1:"
    ):
        filter_with(run)
    assert filter_with(run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"maxBadPercent": 70.0})) is not None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_is_reported_and_the_run_resumes_when_there_is_room(tiny_disk: Path, tmp_path: Path) -> None:
    noise = encoded(Image.frombytes("RGB", (96, 96), os.urandom(96 * 96 * 3)))
    shards = tmp_path / "a.tar"
    shards.write_bytes(tar_of([member for i in range(4) for member in pair(str(i), CAPTIONS[0], noise)]))
    run = run_of(tiny_disk / "out", str(shards))
    with pytest.raises(RetryableError, match="the disk is full: free space"):
        filter_with(run)
    assert not list((tiny_disk / "out/filter").rglob("*.tar"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    committed = filter_with(run)
    assert committed is not None
    assert committed.summary["counts"]["kept"] == 4


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", write_shards(tmp_path / "in"))
    filter_with(run)
    (tmp_path / "out/runs/latest/filter/COMMITTED.json").unlink()
    path = tmp_path / "out/runs/latest/filter/scores/web-00000.parquet"
    path.write_bytes(io.BytesIO(path.read_bytes()).read(100))
    with pytest.raises(DataError, match=r"web-00000\.parquet is damaged .*: remove .*web-00000\.parquet and start"):
        filter_with(run)
