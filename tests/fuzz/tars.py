"""Tars that are damaged in known ways, each with what a reader owes for it. Nothing here uses the reader under test.

The oracle knows where each sample stands in the sound archive, for `tarfile` wrote it here. From the first changed byte
it derives which samples must come out unharmed; from the kind of damage, how many must be accounted for where no damage
is reported.
"""

from __future__ import annotations

import base64
import gzip
import io
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

BLOCK = 512
RECORD = 20 * BLOCK
PAGE = 4096
MAX_PADDING = 1 << 20
"""More zeros than this at the end are damage; fewer cannot be told from padding."""
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAADAAAAAwCAIAAADYYG7QAAAASklEQVR4nO3OIQEAIQAAMSAI/aMQC//mJC+2BJtn7/En63XgS6gIFaEiVISKUBEqQkWoCBWhIlSEilARKkJFqAgVoSJUhIpQESoX0XIBZHTQg3AAAAAASUVORK5CYII="
)
"""an image; decoders ignore what follows it."""
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


class Placed(NamedTuple):
    """A sample of a sound archive and its bytes there."""

    key: str
    caption: str
    image: bytes
    end: int
    """behind its last byte of data."""


@dataclass
class Archive:
    """A sound archive."""

    data: bytes
    samples: list[Placed]
    headers: list[int]
    """where members begin, extended headers included; the end mark last."""
    begins: list[int]
    """where their data begin."""


@dataclass
class Case:
    """Bytes for a reader, and what it owes for them."""

    kind: str
    data: bytes
    unharmed: list[Placed]
    """samples that must come out as they are, first and in order."""
    total: int | None
    """samples that must come out if no damage is reported; None if the bytes do not tell."""
    sound: bool = False
    """whether no damage may be reported, and `unharmed` is all that comes out."""


def archive(rng: random.Random, *, count: int | None = None, prefix: str = "", zeros: int | None = None) -> Archive:
    """A sound archive of small samples, in one of tarfile's formats.

    Args:
        rng: draws.
        count: number of samples.
        prefix: of keys.
        zeros: have the last member end in zeros, which do not begin at a sector as holes do; the byte at which the
            archive will stand in its file.
    """
    buffer, samples, headers, begins = io.BytesIO(), list[Placed](), list[int](), list[int]()
    long = rng.random() < 0.2 and zeros is None
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(FORMATS)) as tar:
        count = rng.randint(2, 12) if count is None else count
        for number in range(count):
            key = f"{prefix}{'é' * 30 + 'x' * 90 if long else ''}{number:04}"
            if len(key) > 90 and tar.format == tarfile.USTAR_FORMAT:
                key = f"{prefix}{number:04}"
            image = (PICTURE if rng.random() < 0.5 else b"") + rng.randbytes(rng.randint(1, 6000))
            caption = f"a dog number {number}"
            members = {"jpg": image, "txt": caption.encode(), **({"json": b"{}"} if rng.random() < 0.3 else {})}
            if zeros is not None and number == count - 1:
                members["x"] = b""
            end = 0
            for suffix in sorted(members):
                content = members[suffix] if suffix != "x" else _zero_ended_data(rng, (zeros or 0) + tar.offset + BLOCK)
                headers.append(tar.offset)
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                end = tar.offset - -info.size % BLOCK
                begins.append(tar.offset - (info.size + -info.size % BLOCK))
            samples.append(Placed(key, caption, image, end))
        headers.append(tar.offset)
    return Archive(buffer.getvalue(), samples, headers, begins)


def _zero_ended_data(rng: random.Random, begin: int) -> bytes:
    """Data from a byte of the file on that end in zeros, or are zeros, where these cannot be a hole."""
    zeros = bytes(rng.randint(1, 5000))
    if rng.random() < 0.2 and begin % PAGE:
        return zeros
    return rng.randbytes(rng.randrange(6) * BLOCK + rng.randrange(BLOCK - 2)) + b"." + zeros


def _before(made: Archive, at: int) -> list[Placed]:
    return [sample for sample in made.samples if sample.end <= at]


def _truncated(rng: random.Random, made: Archive) -> Case:
    at = rng.choice([rng.randrange(len(made.data)), rng.choice(made.headers)])
    return Case("truncated", made.data[:at], _before(made, at), len(made.samples))


def _flipped(data: bytes, places: list[int], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _bits_of_a_header(rng: random.Random, made: Archive) -> Case:
    header = rng.choice(made.headers[:-1])
    places = [header + rng.randrange(BLOCK) for _ in range(rng.choice((1, 1, 1, 3)))]
    return Case("bits of a header", _flipped(made.data, places, rng), _before(made, header), len(made.samples))


def _bits_of_data(rng: random.Random, made: Archive) -> Case:
    sample = rng.choice(made.samples)
    image = made.data.index(sample.image)
    data = _flipped(made.data, [image + rng.randrange(len(sample.image))], rng)
    return Case("bits of data", data, _before(made, image), len(made.samples))


def _bits_anywhere(rng: random.Random, made: Archive) -> Case:
    places = [rng.randrange(len(made.data)) for _ in range(rng.randint(1, 8))]
    return Case("bits anywhere", _flipped(made.data, places, rng), _before(made, min(places)), len(made.samples))


def _zeros(rng: random.Random, made: Archive) -> Case:
    begin = rng.randrange(len(made.data) // BLOCK) * BLOCK
    end = min(begin + rng.randint(1, 30) * BLOCK, len(made.data))
    data = made.data[:begin] + bytes(end - begin) + made.data[end:]
    return Case("zeros", data, _before(made, begin), None if _unknown(made, begin, end) else len(made.samples))


def _unknown(made: Archive, begin: int, end: int) -> bool:
    """Whether the bytes do not tell that these were made zeros.

    Up to the end mark they are an end mark. Padding that ends at a record is a join, if it begins with a header, behind
    the data of a member, or with them, for data may be zeros; those that begin at a page are taken for a hole.
    """
    if end >= made.headers[-1]:
        return True
    if end not in made.headers:
        return False
    header = next(each for each in made.headers if each >= begin)
    data = begin in made.begins and not (begin % PAGE == 0 and end % PAGE == 0)
    return (begin == header or data) and (end - header == 2 * BLOCK or end % RECORD == 0)


def _hole(rng: random.Random, made: Archive) -> Case:
    """Some pages that were never written."""
    made = archive(rng, count=rng.randint(8, 60))
    begin = rng.randrange(len(made.data) // PAGE) * PAGE
    end = begin + rng.choice([1, 1, 1, 2, 3, rng.randint(1, 20)]) * PAGE
    data = (made.data[:begin] + bytes(end - begin) + made.data[end:])[: len(made.data)]
    return Case("hole", data, _before(made, begin), None if _unknown(made, begin, end) else len(made.samples))


def _preallocated(rng: random.Random, made: Archive) -> Case:
    """The beginning of an archive in a file of its full size or more, as downloads leave it that were cut off."""
    made = archive(rng, count=rng.randint(8, 60))
    at = rng.choice(
        [rng.randrange(made.headers[-1]), rng.randrange(made.headers[-1]) // PAGE * PAGE, rng.choice(made.headers)]
    )
    more = rng.choice([0, rng.randrange(MAX_PADDING // 2), MAX_PADDING + BLOCK * 100, rng.randint(2, 4) * MAX_PADDING])
    data = made.data[:at] + bytes(len(made.data) - at + more)
    # A member that is cut is read as zeros; the end mark begins behind it.
    header = min((each for each in made.headers if each >= at), default=len(data))
    return Case("preallocated", data, _before(made, at), None if len(data) - header <= MAX_PADDING else 1 << 30)


def _zero_ended(rng: random.Random, made: Archive) -> Case:
    """Sound archives whose last member ends in zeros: joined, padded, or both."""
    parts, samples = list[bytes](), list[Placed]()
    for number in range(rng.choice([1, 2, 2, 3])):
        part = archive(rng, count=rng.randint(1, 6), prefix=f"{number}-", zeros=sum(map(len, parts)))
        two_blocks = part.data[: part.headers[-1]] + bytes(2 * BLOCK)
        parts.append(part.data if rng.random() < 0.5 else two_blocks)
        samples += part.samples
    padding = rng.choice([0, rng.randrange(20_000), rng.randrange(MAX_PADDING - RECORD)])
    return Case("zero-ended", b"".join(parts) + bytes(padding), samples, len(samples), sound=True)


def _with_field(data: bytes, header: int, at: int, value: bytes) -> bytes:
    """A header with another field and the checksum that fits it."""
    block = bytearray(data[header : header + BLOCK])
    block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:header] + bytes(block) + data[header + BLOCK :]


def _size(rng: random.Random, made: Archive) -> Case:
    header = rng.choice(made.headers[:-1])
    value = rng.choice(
        [
            b"%011o\0" % rng.randrange(1 << 33),
            b"%011o\0" % rng.randrange(9000),
            b"\x80" + rng.randbytes(11),
            b"\xff" + rng.randbytes(11),
            rng.randbytes(12),
            b"-0000000001\0",
            b"1_000\0\0\0\0\0\0\0",
            bytes(12),
            b"0x10" + bytes(8),
        ]
    )
    return Case("size", _with_field(made.data, header, 124, value), _before(made, header), None)


def _type(rng: random.Random, made: Archive) -> Case:
    header = rng.choice(made.headers[:-1])
    kind = rng.choice([bytes([rng.randrange(256)]), bytes([rng.choice(b"01234567SDNVLKxXgM")])])
    return Case("type", _with_field(made.data, header, 156, kind), _before(made, header), None)


def _inserted(rng: random.Random, made: Archive) -> Case:
    at = rng.randrange(made.headers[-1])
    junk = rng.choice([rng.randbytes, bytes])(rng.choice([rng.randint(1, 2000), BLOCK * rng.randint(1, 6)]))
    zeros = not junk.strip(b"\0")
    return Case(
        "inserted", made.data[:at] + junk + made.data[at:], _before(made, at), None if zeros else len(made.samples)
    )


def _deleted(rng: random.Random, made: Archive) -> Case:
    at = rng.randrange(made.headers[-1])
    size = rng.choice([rng.randint(1, 2000), BLOCK * rng.randint(1, 6)])
    data = made.data[:at] + made.data[at + size :]
    # What is left behind a deletion of whole blocks may be a sound archive of fewer samples.
    return Case("deleted", data, _before(made, at), None if size % BLOCK == 0 else len(made.samples))


def _joined(rng: random.Random, made: Archive) -> Case:
    other = archive(rng, prefix=rng.choice(["", "second-"]))
    samples = [*made.samples, *other.samples]
    first = made.data if rng.random() < 0.5 else made.data[: made.headers[-1]] + bytes(2 * BLOCK)
    return Case("joined", first + other.data, samples, len(samples), sound=True)


def _sound(rng: random.Random, made: Archive) -> Case:
    return Case("sound", made.data + bytes(rng.randrange(20_000)), made.samples, len(made.samples), sound=True)


def _repeated(rng: random.Random, made: Archive) -> Case:
    """Each sample twice in a row."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for sample in made.samples:
            for _ in range(2):
                for suffix, content in (("jpg", sample.image), ("txt", sample.caption.encode())):
                    info = tarfile.TarInfo(f"{sample.key}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    samples = [sample for sample in made.samples for _ in range(2)]
    return Case("repeated keys", buffer.getvalue(), samples, len(samples), sound=True)


def _junk_behind(rng: random.Random, made: Archive) -> Case:
    junk = rng.randbytes(rng.randint(1, 5000)) + b"."
    return Case("junk behind", made.data + junk, made.samples, 1 << 30)


def _junk(rng: random.Random, made: Archive) -> Case:
    junk = rng.randbytes(rng.randint(1, 5000)) + b"."
    return Case("junk", rng.choice([junk, junk + made.data, b"\x1f\x8b" + junk, b"BZh9" + junk]), [], 1 << 30)


def _pax(rng: random.Random, made: Archive) -> Case:
    """An extended header with strange records before a member."""
    values = [b"-1", b"9" * 5000, rng.randbytes(20), b"12", b"", b"../../x.jpg", b"1,2,x"]
    keys = [
        b"path",
        b"size",
        b"linkpath",
        b"GNU.sparse.map",
        b"GNU.sparse.major",
        b"mtime",
        b"hdrcharset",
        rng.randbytes(3),
    ]
    record = rng.choice(keys) + b"=" + rng.choice(values) + b"\n"
    length = rng.choice([len(record) + 3, rng.randrange(40), 10**6])
    body = rng.choice([b"%d %s" % (length, record), record, rng.randbytes(30)])
    header = tarfile.TarInfo("PaxHeader")
    header.size, header.type = len(body), rng.choice([b"x", b"g", b"X", b"L", b"K"])
    at = rng.choice(made.headers[:-1])
    extra = header.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % BLOCK)
    return Case("pax", made.data[:at] + extra + made.data[at:], _before(made, at), None)


def _gzip(rng: random.Random, made: Archive) -> Case:
    packed = gzip.compress(made.data, 6)
    kind = rng.randrange(4)
    if kind == 0:
        return Case("gzip", packed + bytes(rng.randrange(3000)), made.samples, len(made.samples), sound=True)
    if kind == 1:
        other = archive(rng, prefix="second-")
        samples = [*made.samples, *other.samples]
        return Case("gzip", packed + gzip.compress(other.data), samples, len(samples), sound=True)
    if kind == 2:
        return Case("gzip", packed[: rng.randrange(3, len(packed))], [], 1 << 30)
    return Case("gzip", _flipped(packed, [rng.randrange(len(packed))], rng), [], len(made.samples))


MUTATIONS: tuple[Callable[[random.Random, Archive], Case], ...] = (
    _truncated,
    _bits_of_a_header,
    _bits_of_data,
    _bits_anywhere,
    _zeros,
    _size,
    _type,
    _inserted,
    _deleted,
    _joined,
    _sound,
    _repeated,
    _junk_behind,
    _junk,
    _pax,
    _gzip,
    _hole,
    _preallocated,
    _zero_ended,
)


def case(seed: int) -> Case:
    """The case of a number; kinds take turns."""
    rng = random.Random(seed)
    return MUTATIONS[seed % len(MUTATIONS)](rng, archive(rng))


def sound_case(seed: int) -> Case:
    """The archive of a number, undamaged."""
    rng = random.Random(seed)
    return _sound(rng, archive(rng))
