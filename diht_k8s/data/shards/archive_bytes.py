"""The bytes of a tar in order, from a file that is plain or packed with gzip, bzip2 or xz.

In: a file that reads forwards; one that can seek is not read where data are skipped. Out: bytes of the tar by number,
and how many are left. Packed parts may follow each other, as after `cat a.tar.gz b.tar.gz`; zeros may follow the last
one.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any, Final, Protocol

HEAD_BYTES: Final = 6
CHUNK_BYTES: Final = 1 << 20
"""At most this many bytes are read or unpacked between two checks for a stop request."""
PACKED_CHUNK_BYTES: Final = 32 << 10
"""Packed bytes read at once: a decompressor copies the rest of them at each call."""
MAX_PADDING_BYTES: Final = 1 << 20
"""More zeros than this at the end of an archive are no padding but data that were never written: tars are padded to 10 KiB, by
some programs to some hundreds of them. Fewer cannot be told from padding."""
LZMA_MEMORY_BYTES: Final = 256 << 20
_UNPACKERS: Final[dict[bytes, Callable[[], Any]]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY_BYTES),
}
_UNPACK_ERRORS: Final = (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError)


class PackedError(Exception):
    """The packed bytes are damaged or cut off."""


class UnwrittenError(PackedError):
    """More zeros follow the packed bytes than padding has."""


class ArchiveBytes(Protocol):
    """The bytes of a tar; numbers count from its beginning, unpacked."""

    plain: bool
    """whether they are those of the file."""
    position: int
    """number of bytes that were read or skipped."""

    def left(self) -> int | None:
        """Number of bytes until the end; None if only reading shows it."""
        ...

    def read(self, size: int) -> bytes:
        """The next `size` bytes, at most `CHUNK_BYTES`; fewer only at the end.

        Raises:
            PackedError: the packed bytes are damaged.
        """
        ...

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes that `left` allows, without reading them; False if they must be read."""
        ...

    def go_back(self, size: int) -> None:
        """Go back by as many bytes as a `skip` and what was read since have passed."""
        ...


def open_archive(file: IO[bytes]) -> ArchiveBytes:
    """The bytes of the tar in a file, by its first bytes."""
    head = file.read(HEAD_BYTES)
    unpacker = next((make for magic, make in _UNPACKERS.items() if head.startswith(magic)), None)
    return _PlainBytes(file, head) if unpacker is None else _PackedBytes(file, head, unpacker)


def open_plain(file: IO[bytes]) -> ArchiveBytes:
    """The bytes of the tar in a file that is not packed, whatever its first bytes look like."""
    return _PlainBytes(file, file.read(HEAD_BYTES))


class _PlainBytes:
    plain = True

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self._file, self._head, self.position = file, head, 0
        self._seeks = file.seekable()
        if self._seeks:
            self._size: int | None = file.seek(0, io.SEEK_END)
            file.seek(0)
            self._head = b""
        else:
            self._size = getattr(file, "size", None)

    def left(self) -> int | None:
        return None if self._size is None else self._size - self.position

    def read(self, size: int) -> bytes:
        if self._head:  # shorter than the first block
            data, self._head = self._head + self._file.read(size - len(self._head)), b""
        else:
            data = self._file.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        if self._seeks:
            self._file.seek(size, io.SEEK_CUR)
            self.position += size
        return self._seeks

    def go_back(self, size: int) -> None:
        self._file.seek(-size, io.SEEK_CUR)
        self.position -= size


class _PackedBytes:
    plain = False

    def __init__(self, file: IO[bytes], head: bytes, make: Callable[[], Any]) -> None:
        self._file, self._input, self._unpacker, self.position = file, head, make(), 0

    def left(self) -> int | None:
        return None

    def read(self, size: int) -> bytes:
        parts = list[bytes]()
        while size > 0 and (part := self._unpack(size)):
            parts.append(part)
            size -= len(part)
            self.position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> bool:
        return False

    def go_back(self, size: int) -> None:
        raise AssertionError("nothing was skipped")

    def _unpack(self, limit: int) -> bytes:
        """Some bytes, at most `limit`; none at the end."""
        while not self._unpacker.eof or self._next_part():
            hungry, ended = getattr(self._unpacker, "needs_input", True), False
            if hungry and not self._input:
                self._input = self._file.read(PACKED_CHUNK_BYTES)
                ended = not self._input
            try:
                part = self._unpacker.decompress(self._input if hungry else b"", limit)
            except _UNPACK_ERRORS as error:
                raise PackedError(f"packed data are damaged: {error}") from error
            if hungry:
                self._input = getattr(self._unpacker, "unconsumed_tail", b"")
            if part:
                return part
            if ended and not self._unpacker.eof:
                raise PackedError("packed data are cut off")
        return b""

    def _next_part(self) -> bool:
        """Begin the part behind one that has ended; False at the end of the file."""
        found: bytes = self._unpacker.unused_data
        rest = found.lstrip(b"\0")
        zeros = len(found) - len(rest)
        while len(rest) < HEAD_BYTES and (more := self._file.read(PACKED_CHUNK_BYTES)):
            found = rest + more
            rest = found.lstrip(b"\0")
            zeros += len(found) - len(rest)
            if zeros > MAX_PADDING_BYTES:
                raise UnwrittenError(f"more than {MAX_PADDING_BYTES >> 20} MiB of zeros follow the packed data")
        if not rest:
            return False
        make = next((make for magic, make in _UNPACKERS.items() if rest.startswith(magic)), None)
        if make is None:
            raise PackedError("other bytes follow the packed data")
        self._unpacker, self._input = make(), rest
        return True
