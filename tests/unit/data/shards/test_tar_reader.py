"""The tar reader: every format that it knows, every damage reported with its byte, nothing lost before it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from diht_k8s.api.errors import StopRequested
from diht_k8s.data.shards.samples import DamagedShardError, Sample, count_samples, read_samples
from diht_k8s.data.shards.shard_index import index_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_reader import RECORD

IMAGE = b"\x89PNG image" * 80
PAIR_BYTES = 512 + 1024 + 512 + 512
"""A pair of `pairs`: header and 2 blocks of the image, header and 1 block of the caption."""


def header(
    name: bytes, size: bytes, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000", prefix: bytes = b""
) -> bytes:
    """A header with these fields as they are, and its checksum."""
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"00000000000\0"
    tail = kind + bytes(100) + magic.ljust(8, b"\0") + bytes(64) + bytes(16) + prefix.ljust(155, b"\0") + bytes(12)
    checksum = sum(head) + sum(tail) + 8 * 32
    return head + b"%06o\0 " % checksum + tail


def member(name: bytes, data: bytes, kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, b"%011o\0" % len(data), kind, **fields) + data + bytes(-len(data) % 512)


def pair(key: str) -> bytes:
    return member(f"{key}.png".encode(), IMAGE) + member(f"{key}.txt".encode(), b"a dog")


def pairs(*keys: str) -> bytes:
    return b"".join(map(pair, keys))


END = bytes(1024)


def written(format_: int, name: str = "a", **headers: str) -> bytes:
    """A pair as Python's `tarfile` writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for suffix, data in (("png", IMAGE), ("txt", b"a dog")):
            info = tarfile.TarInfo(f"{name}.{suffix}")
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zero_tailed(begin: int) -> bytes:
    """A pair, and a member of 1024 bytes that are zeros from one of them on."""
    return pair("a") + member(b"b.png", b"x" * begin + bytes(1024 - begin))


def on_page(begin: int, size: int) -> bytes:
    """A member, and one whose data begin at byte 4096 and are zeros from one of them on."""
    return member(b"a.png", b"x" * 3072) + member(b"b.png", b"x" * begin + bytes(size - begin))


def pax(*records: bytes) -> bytes:
    return member(b"PaxHeader", b"".join(records), b"x")


def read(path: Path) -> tuple[list[Sample], DamagedShardError | None]:
    samples = list[Sample]()
    try:
        for sample in read_samples(Storage(), str(path)):
            samples.append(sample)  # what came before an error counts
    except DamagedShardError as error:
        return samples, error
    return samples, None


def keys_of(tmp_path: Path, data: bytes) -> tuple[list[str], DamagedShardError | None]:
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    samples, damage = read(path)
    assert count_samples(Storage(), str(path)) == len(samples)
    return [sample.key for sample in samples], damage


@pytest.fixture
def two_seconds() -> Iterator[None]:
    """Ends what reads on and on; of CPU time, which a busy machine does not lengthen."""

    def over(number: int, frame: FrameType | None) -> None:
        raise AssertionError("took more than 2 CPU seconds")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, 2)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (pairs("a", "b") + END, ["a", "b"]),
        (pair("a") + bytes(10_240), ["a"]),
        (pair("a") + bytes(512), ["a"]),
        (pair("a") + bytes(1 << 20), ["a"]),
        (written(tarfile.USTAR_FORMAT, "x/" * 60 + "a"), ["x/" * 60 + "a"]),
        (written(tarfile.GNU_FORMAT, "x" * 300), ["x" * 300]),
        (written(tarfile.PAX_FORMAT, "é" * 200), ["é" * 200]),
        (written(tarfile.PAX_FORMAT, "a", size=str(len(IMAGE)))[: 512 + 512 + 512 + 1024] + END, ["a"]),
        (member(b"old.png", IMAGE, magic=b"") + member(b"old.txt", b"x", b"\0", magic=b"") + END, ["old"]),
        (member(b"a.png", IMAGE, magic=b"ustar  ", prefix=b"a time") + END, ["a"]),
        (header(b"a.png", b"\x80" + len(IMAGE).to_bytes(11, "big")) + IMAGE + bytes(224) + END, ["a"]),
        (member(b"a/", b"", b"5") + pair("a/b") + member(b"dev", b"", b"3") + END, ["a/b"]),
        (member(b"g", b"19 path=common.png\n", b"g") + member(b"x", IMAGE) + END, ["common"]),
        (pax(b"14 path=b.png\n") + member(b"a.png", IMAGE) + member(b"b.txt", b"x") + END, ["b"]),
        (pair("a") + END + pair("b") + END, ["a", "b"]),
        (pairs("a", "a", "b") + END + pair("b") + END, ["a", "a", "b", "b"]),
        (written(tarfile.GNU_FORMAT, "a") + written(tarfile.PAX_FORMAT, "b"), ["a", "b"]),
        (member(b"label", b"volume", b"V") + pair("a") + END, ["a"]),
        (zero_tailed(700) + END + pair("c") + END, ["a", "b", "c"]),
        (zero_tailed(511) + END + pair("c") + END, ["a", "b", "c"]),
        (zero_tailed(700) + bytes(1 << 20), ["a", "b"]),
        (pair("a") + member(b"b.png", bytes(1024)) + END + pair("c") + END, ["a", "b", "c"]),
        (pair("a") + member(b"b.png", bytes(1024)) + bytes(1 << 20), ["a", "b"]),
        (on_page(0, 1024) + END + pair("c") + END, ["a", "b", "c"]),
        (on_page(4094, 7168) + END + pair("c") + END, ["a", "b", "c"]),
        (pair("a") + member(b"b.png", bytes(40 << 20)) + END + pair("c") + END, ["a", "b", "c"]),
    ],
    ids=[
        "ustar",
        "padded",
        "one zero block",
        "many zeros",
        "prefix",
        "GNU long name",
        "pax path",
        "pax size",
        "v7",
        "GNU time is no prefix",
        "base 256",
        "folders and devices",
        "global pax",
        "pax for one member",
        "joined",
        "keys that repeat",
        "joined and padded",
        "volume label",
        "zeros at the end of data, joined",
        "zeros from a byte before a sector",
        "zeros at the end of data, padded",
        "data of zeros, joined",
        "data of zeros, padded",
        "data of zeros from a page, joined",
        "zeros from before a page",
        "much data of zeros, joined",
    ],
)
def test_sound_archive_is_read_whole(tmp_path: Path, data: bytes, keys: list[str]) -> None:
    assert keys_of(tmp_path, data) == (keys, None)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


HUGE = b"77777777777\0"
MALFORMED_PAX = [
    b"14 path=b.png",
    b"99 path=b.png\n",
    b"x path=b.png\n",
    b"3 =\n",
    b"13 path=b.png\n",
    b"18 size=abcdefgh\n",
]


@pytest.mark.parametrize(
    ("data", "keys", "offset", "reason"),
    [
        (flipped(pairs("a", "b", "c") + END, PAIR_BYTES + 3), ["a"], PAIR_BYTES, "checksum"),
        (flipped(pairs("a", "b", "c") + END, 3), [], 0, "checksum"),
        (pair("a") + bytes(512) + pair("b") + END, ["a"], PAIR_BYTES, "zeros"),
        (pair("a") + bytes(5 * 512) + pair("b") + END, ["a"], PAIR_BYTES, "zeros"),
        (pair("a") + bytes(1 << 20) + pair("b") + END, ["a"], PAIR_BYTES, "end mark"),
        (pair("a") + bytes(RECORD - PAIR_BYTES) + bytes(RECORD) + pair("b") + END, ["a"], PAIR_BYTES, "end mark"),
        (pair("a") + bytes((1 << 20) + (1 << 16)), ["a"], PAIR_BYTES, "more than 1 MiB of zeros"),
        (zero_tailed(512) + END + pair("c") + END, ["a", "b"], PAIR_BYTES + 1536, "zeros stand between"),
        (zero_tailed(512) + bytes(1 << 20), ["a", "b"], PAIR_BYTES + 1536, "zeros from within"),
        (on_page(0, 3072) + END + pair("c") + END, ["a", "b"], 7168, "zeros stand between"),
        (on_page(4095, 7168) + END + pair("c") + END, ["a", "b"], 11_264, "zeros stand between"),
        (on_page(0, 3072) + bytes(1 << 20), ["a", "b"], 7168, "zeros from within"),
        (pair("a") + END + b"junk" * 200, ["a"], PAIR_BYTES + 1024, "checksum"),
        (pair("a"), ["a"], PAIR_BYTES, "end mark is missing"),
        ((pairs("a", "b") + END)[: PAIR_BYTES + 100], ["a"], PAIR_BYTES, "within a header"),
        ((pairs("a", "b") + END)[: PAIR_BYTES + 700], ["a"], PAIR_BYTES, "claims 800 bytes, 188 are left"),
        (pair("a") + header(b"b.png", HUGE) + IMAGE, ["a"], PAIR_BYTES, "claims 8589934591 bytes, 800 are left"),
        (pair("a") + header(b"b.png", b"\x80" + b"\xff" * 11) + END, ["a"], PAIR_BYTES, "claims"),
        (
            gzip.compress(pair("a") + header(b"b.png", b"\x80" + (1 << 60).to_bytes(11, "big")) + IMAGE),
            ["a"],
            None,
            "damaged",
        ),
        (pair("a") + header(b"b.png", b"\xff" * 12) + END, ["a"], PAIR_BYTES, "size .* malformed"),
        (pair("a") + header(b"b.png", b"12x45\0") + END, ["a"], PAIR_BYTES, "size .* malformed"),
        (pair("a") + member(b"b.png", IMAGE, b"Q") + END, ["a"], PAIR_BYTES, "unknown type b'Q'"),
        (pair("a") + member(b"b.png", IMAGE, magic=b"other") + END, ["a"], PAIR_BYTES, "magic"),
        (pair("a") + member(b"n", b"no end", b"L") + pair("b") + END, ["a"], PAIR_BYTES, "long name"),
        (pair("a") + header(b"n", HUGE, b"L") + END, ["a"], PAIR_BYTES, "extended header has a wrong size"),
        (pair("a") + pax(b"14 path=b.png\n") + END, ["a"], PAIR_BYTES + 1024, "no member"),
        (pair("a") + header(b"b.png", b"%011o\0" % 9, b"S")[:482] + b"\1" + bytes(29), ["a"], PAIR_BYTES, "checksum"),
        *((pair("a") + pax(record) + pair("c") + END, ["a"], None, "pax|size") for record in MALFORMED_PAX),
    ],
)
@pytest.mark.usefixtures("two_seconds")
def test_damage_is_reported_with_its_byte_after_every_sample_before_it(
    tmp_path: Path, data: bytes, keys: list[str], offset: int | None, reason: str
) -> None:
    found, damage = keys_of(tmp_path, data)
    assert damage is not None
    assert found == keys
    assert (damage.samples, damage.last_key) == (len(keys), keys[-1] if keys else None)
    assert offset in (None, damage.offset)
    with pytest.raises(DamagedShardError, match=reason):
        raise damage
    assert f"at byte {damage.offset}" in str(damage)
    assert "s.tar" in str(damage)


@pytest.mark.parametrize(
    "data",
    [
        pax(b"25 GNU.sparse.map=1,2,x,y\n") + pair("b"),
        pax(b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n") + member(b"b.png", b"x\n"),
        pax(b"0 path=b.png\n") + pair("b"),
    ],
    ids=["sparse map", "sparse 1.0", "length 0"],
)
def test_strange_pax_header_is_a_bad_sample_or_damage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(pair("a") + data + END)
    samples, damage = read(path)
    assert samples[0].problem is None
    assert damage is not None or samples[1].problem is not None


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("../a", "name_unsafe"),
        ("x/../../a", "name_unsafe"),
        ("/etc/a", "name_unsafe"),
        ("/a", "name_unsafe"),
        ("x/a", None),
        ("./a", None),
    ],
)
def test_key_that_leads_out_of_its_folder_is_bad(tmp_path: Path, key: str, problem: str | None) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(pair(key) + END)
    (sample,) = read_samples(Storage(), str(path))
    assert (sample.key, sample.problem) == (key, problem)


@pytest.mark.parametrize(
    "special",
    [member(b"a.png", b"", b"1"), member(b"a.png", b"", b"2"), member(b"a.png", IMAGE, b"S")],
    ids=["hard link", "symbolic link", "sparse"],
)
def test_member_without_content_of_its_own_makes_a_bad_sample(tmp_path: Path, special: bytes) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(special + member(b"a.txt", b"a dog") + pair("b") + END)
    assert [sample.problem for sample in read_samples(Storage(), str(path))] == ["member_not_regular", None]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("joined", [False, True])
def test_packed_archives_are_read_alike_and_joined_ones_whole(tmp_path: Path, pack, joined: bool) -> None:  # type: ignore[no-untyped-def]
    one, two = pairs("a", "b") + END, pair("c") + END
    data = pack(one) + pack(two) + bytes(700) if joined else pack(one + two)
    assert keys_of(tmp_path, data) == (["a", "b", "c"], None)


@pytest.mark.parametrize(
    ("damaged", "count"),
    [
        (lambda data: data[:-4], 2),
        (lambda data: data + b"junk", 2),
        (lambda data: data[:-6] + b"\0\0" + data[-4:], 2),
        (lambda data: data[:100], 0),
    ],
    ids=["cut", "junk behind", "wrong CRC", "cut early"],
)
def test_damaged_gzip_is_reported_after_the_samples_before_the_damage(tmp_path: Path, damaged, count: int) -> None:  # type: ignore[no-untyped-def]
    noise = bytes((number * 7919) % 251 for number in range(40_000))
    data = pair("a") + member(b"b.png", noise) + member(b"b.txt", b"a cat") + END
    found, damage = keys_of(tmp_path, damaged(gzip.compress(data)))
    assert damage is not None
    assert found == ["a", "b"][:count]


@pytest.mark.parametrize("limit", [1, 3, 7], ids=["before all", "between members", "within a large member"])
def test_stop_request_is_honoured(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "s.tar.gz"
    path.write_bytes(gzip.compress(pair("a") + member(b"b.png", bytes(8 << 20)) + END, 1))
    calls = list[None]()

    def check() -> None:
        calls.append(None)
        if len(calls) == limit:
            raise StopRequested("stopped")

    with pytest.raises(StopRequested):
        list(read_samples(Storage(), str(path), check=check))
    assert len(calls) == limit


def bytes_read() -> int:
    """By this process, as the kernel counts them."""
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


def test_counting_does_not_read_the_data(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with path.open("wb") as file:
        file.write(pair("a") + header(b"b.png", b"%011o\0" % (4 << 30)))
        file.seek(4 << 30, io.SEEK_CUR)
        file.write(pair("c") + END)
    before = bytes_read()
    assert count_samples(Storage(), str(path)) == 3
    assert bytes_read() - before < 1 << 20


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("beside", "content", "sound"),
    [
        ("s_stats.json", b'{"successes": 2}', True),
        ("s_stats.json", b'{"successes": 3}', False),
        ("t_stats.json", b'{"successes": 2}', False),
    ],
    ids=["as many", "more", "none"],
)
def test_zeros_beyond_padding_are_the_end_where_img2dataset_counted_as_many(
    tmp_path: Path, pack: Callable[[bytes], bytes], beside: str, content: bytes, *, sound: bool
) -> None:
    (tmp_path / beside).write_bytes(content)
    keys, damage = keys_of(tmp_path, pack(pairs("a", "b") + bytes(8 << 20)))
    assert keys == ["a", "b"]
    assert (damage is None) == sound
    index = index_of(Storage(), str(tmp_path / "s.tar"))
    assert (index.samples, index.damage is None) == (2, sound)


def test_zeros_behind_packed_data_are_padding_up_to_a_mebibyte(tmp_path: Path) -> None:
    packed = gzip.compress(pairs("a", "b") + END)
    assert keys_of(tmp_path, packed + bytes(1 << 20)) == (["a", "b"], None)
    keys, damage = keys_of(tmp_path, packed + bytes((1 << 20) + (1 << 16)))
    assert keys == ["a", "b"]
    assert "more than 1 MiB of zeros follow the packed data" in str(damage)
