"""The writer of shards: samples as a plain tar, byte for byte the same for the same samples.

Size, SHA-256 and the first byte of each member are gathered while the bytes pass.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import IO, Any, BinaryIO, Final, cast

import numpy as np

from diht_k8s.data.shards.samples import Sample, split_name
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_reader import BLOCK

_NOT_HELD: Final = {"", "__key__"}
_EXTENDED: Final = (b"L", b"K", b"x")
"""Headers that belong to the member behind them."""


def write_samples(
    storage: Storage,
    uri: str,
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    *,
    digest: ContentDigest | None = None,
) -> int:
    """Write (key, members) as a plain tar by webdataset; returns their number.

    Members without a suffix, or with `__key__` as suffix, are left out: webdataset's samples cannot hold them.

    Args:
        storage: where the tar goes.
        uri: its name.
        samples: pairs in order.
        digest: takes the size and the SHA-256 of the tar.
    """
    from webdataset.writer import TarWriter  # it imports torch, which only those who write should wait for

    count = 0
    plain: dict[str, Any] = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "encoder": False, "keep_meta": True}
    with (
        storage.writer(uri) as file,
        TarWriter(cast("BinaryIO", file if digest is None else digest.around(file)), **plain) as writer,
    ):
        writer.tarstream.format = tarfile.USTAR_FORMAT  # webdataset 1.0.2 takes a format and does not hand it on
        for key, members in samples:
            writer.write(held_members(members) | {"__key__": key})
            count += 1
    return count


def held_members(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members of a sample that a shard can hold."""
    return {suffix: members[suffix] for suffix in members.keys() - _NOT_HELD}


def fits_tar(sample: Sample) -> bool:
    """Whether the tar format can hold the names of a sample's members."""
    longest = max(sample.members, key=len, default="")
    try:
        tarfile.TarInfo(f"{sample.key}.{longest}").tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:
        return False
    return True


class ContentDigest:
    """Size and SHA-256 of what is written to a file, gathered on the way."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def around(self, file: IO[bytes]) -> IO[bytes]:
        """Pass writes on to `file`."""
        self._file = file
        return cast("IO[bytes]", self)

    def write(self, data: bytes) -> int:
        """Write and count."""
        assert self._file is not None
        self._sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Position, as archives ask for it."""
        return self.size

    @property
    def sha256(self) -> str:
        """Digest of what was written, in hex."""
        return self._sha256.hexdigest()


class TarDigest(ContentDigest):
    """Size and SHA-256 of a tar, and where its members begin, whatever program forms the headers."""

    def __init__(self) -> None:
        super().__init__()
        self._header = bytearray()
        self._passed, self._skip = 0, 0
        """bytes up to the current header, and those of data before the next one."""
        self._extended = False
        self._begins = list[int]()
        self._end = 0
        self._key = ""
        self.samples = 0
        """number of keys that were begun."""

    @property
    def members(self) -> int:
        """Number of members that were written."""
        return len(self._begins)

    def write(self, data: bytes) -> int:
        """Write, count, and look at the headers."""
        written, at = super().write(data), 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                self._passed += step
            else:
                step = min(BLOCK - len(self._header), len(data) - at)
                self._header += data[at : at + step]
                if len(self._header) == BLOCK:
                    self._read_header(bytes(self._header))
                    self._header.clear()
            at += step
        return written

    def _read_header(self, header: bytes) -> None:
        begin, self._passed = self._passed, self._passed + BLOCK
        if not header.strip(b"\0"):
            return
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        if not self._extended:
            self._begins.append(begin)
            self._note_key(header)
        self._extended = header[156:157] in _EXTENDED
        self._skip = size + -size % BLOCK
        self._end = begin + BLOCK + size

    def _note_key(self, header: bytes) -> None:
        folder, name = (
            part.partition(b"\0")[0].decode(errors="surrogateescape") for part in (header[345:500], header[:100])
        )
        split = split_name(f"{folder}/{name}" if folder else name)
        if split is not None and split[0] != self._key:
            self._key = split[0]
            self.samples += 1

    def starts(self, members: Sequence[int]) -> list[int] | None:
        """First byte of each sample and the end of the last one; None if the tar holds other members.

        Args:
            members: number of members of each sample, in order.
        """
        if sum(members) != len(self._begins):
            return None
        firsts = np.cumsum([0, *members])[:-1]
        return [*(self._begins[number] for number in firsts), self._end]


class DistinctKeys:
    """The keys of a shard so far."""

    def __init__(self) -> None:
        self._taken = dict[str, int]()
        """key -> number to try next for a sample that has it, too."""

    def named(self, sample: Sample) -> Sample:
        """The next sample; if its key has come before, under the first of KEY-2, KEY-3, ... that has not.

        A key that a tar cannot hold with a number behind it gives up its last characters for it.
        """
        found = sample
        while found.key in self._taken:
            ending = f"-{self._taken[sample.key]}"
            self._taken[sample.key] += 1
            found = replace(sample, key=sample.key + ending)
            if not fits_tar(found):
                found = replace(sample, key=sample.key[: -len(ending)] + ending)
        self._taken[found.key] = 2
        return found
