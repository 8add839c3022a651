"""Samples of a WebDataset shard: read in order as a stream, each with its uid, caption and image, or the reason why it is bad."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, Self, cast

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.shards.storage import Storage

IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp")
MAX_MEMBER_BYTES: Final = 64 << 20
TOO_LARGE: Final = "member_too_large"
"""Problem of a sample with a larger one."""
MAX_CAPTION_BYTES: Final = 16 << 10
CAPTION_KEYS: Final = ("caption", "text")

logger = logging.getLogger(__name__)


class DamagedShardError(DataError):
    """A shard is cut off or no archive: what it holds beyond the last sample is unknown."""


@dataclass(frozen=True)
class Sample:
    """One pair as it stands in a shard."""

    key: str
    """the WebDataset key: path up to the first dot of the base name."""
    members: Mapping[str, bytes]
    """suffix (lower-case, without the dot) -> content, in the order of the shard."""
    uid: str
    """`uid` of the .json, or 32 hex digits of a hash over image and caption."""
    caption: str
    """"" where `problem` says so."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """the .json member, {} where there is none."""
    problem: str | None = None
    """why the sample is bad, None when caption and image bytes are there (the image is not decoded yet)."""

    @property
    def image(self) -> bytes:
        """The image's encoded bytes, b"" where there is none."""
        return next((self.members[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.members), b"")

    @property
    def caption_sha256(self) -> str:
        """Digest of the caption, 32 hex digits."""
        return hashlib.sha256(self.caption.encode()).hexdigest()[:32]


def read_samples(storage: Storage, uri: str) -> Iterator[Sample]:
    """The samples of one shard (plain or compressed tar), in order; bad ones carry their reason.

    Raises:
        DamagedShardError: the shard is truncated or no tar: what it holds is unknown, so it cannot be counted sample by sample.
        DataError: the shard is empty, or it was replaced while it was read.
    """
    count = 0
    with storage.open(uri) as file:
        try:
            for key, members, problem in _grouped(_members(file)):
                yield make_sample(key, members, problem)
                count += 1
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise _damaged(uri, count, error) from error
        except OSError as error:
            if type(error) in (OSError, gzip.BadGzipFile) and error.errno is None:  # a decompressor's, not the disk's
                raise _damaged(uri, count, error) from error
            raise
    if count == 0:
        raise DataError(f"{uri} holds no samples: leave it out of the shards")


def _damaged(uri: str, count: int, error: Exception) -> DamagedShardError:
    return DamagedShardError(
        f"{uri} is damaged after {count} samples ({error}): fetch it again or leave it out of the shards"
    )


def make_sample(key: str, members: Mapping[str, bytes], problem: str | None = None) -> Sample:
    """A sample from its members, with uid, caption and the first thing that is wrong."""
    meta, meta_problem = _meta(members.get("json"))
    caption, caption_problem = _caption(members.get("txt"), meta)
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in members), None)
    image_problem = "picture_missing" if suffix is None else "picture_empty" if not members[suffix] else None
    if problem is None:
        problem = image_problem or meta_problem or caption_problem
    uid = meta.get("uid")
    if not isinstance(uid, str) or not 0 < len(uid) <= 128:
        content = members.get(suffix, b"") if suffix else b""
        uid = hashlib.sha256(
            content + b"\0" + caption.encode() + (b"" if content or caption else key.encode())
        ).hexdigest()[:32]
    return Sample(key, members, uid, caption, meta, problem)


class _Header(tarfile.TarInfo):
    """A member's header that misses the end mark: a tar that was cut between two members looks whole otherwise."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]  # not in the stubs
            if tar.offset == 0:
                raise
            raise tarfile.ReadError("the end mark is missing: it was cut off") from error


def _members(file: IO[bytes]) -> Iterator[tuple[str, str, bytes | None]]:
    """(key, suffix, content) of each regular member; None for one above the size limit."""
    with tarfile.open(fileobj=file, mode="r|*", errorlevel=1, tarinfo=_Header) as tar:
        for info in tar:
            split = _split_name(info)
            if split is None:
                continue
            key, suffix = split
            content = tar.extractfile(info)
            assert content is not None
            data = content.read() if info.size <= MAX_MEMBER_BYTES else None
            if data is not None and len(data) < info.size:
                raise tarfile.ReadError("unexpected end of data")
            yield key, suffix, data


def _split_name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and lower-case suffix of a member, None for what is no part of a sample."""
    folder, _, name = info.name.rpartition("/")
    base, dot, suffix = name.partition(".")
    if not info.isreg() or not dot or not base:
        return None
    return f"{folder}/{base}" if folder else base, suffix.lower()


def _grouped(members: Iterator[tuple[str, str, bytes | None]]) -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    key, current, problem = None, dict[str, bytes](), None
    for member_key, suffix, data in members:
        if member_key != key:
            if key is not None:
                yield key, current, problem
            key, current, problem = member_key, {}, None
        if data is None:
            problem = TOO_LARGE
        current[suffix] = data or b""
    if key is not None:
        yield key, current, problem


def _meta(data: bytes | None) -> tuple[dict[str, Any], str | None]:
    if data is None:
        return {}, None
    try:
        meta = json.loads(data)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return {}, "json_unreadable"
    return (meta, None) if isinstance(meta, dict) else ({}, "json_unreadable")


def _caption(text: bytes | None, meta: Mapping[str, Any]) -> tuple[str, str | None]:
    """The caption of the .txt, else of the .json; one line, white space folded."""
    if text is not None:
        if len(text) > MAX_CAPTION_BYTES:
            return "", "caption_too_long"
        try:
            caption = text.decode()
        except UnicodeDecodeError:
            return "", "caption_not_utf8"
    else:
        value = next((meta[key] for key in CAPTION_KEYS if key in meta), None)
        if value is None:
            return "", "caption_missing"
        if not isinstance(value, str):
            return "", "caption_no_text"
        caption = value
    caption = " ".join(caption.replace("\0", " ").split())
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        return "", "caption_too_long"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        return "", "caption_not_utf8"
    return (caption, None) if caption else ("", "caption_empty")


def storable(text: str) -> str:
    """A text with half characters replaced: names in damaged archives and in JSON may hold them, and no table stores them."""
    return text.encode(errors="replace").decode()


def count_samples(storage: Storage, uri: str) -> int:
    """The number of samples of a shard, without looking at them; of a damaged shard, of what comes before the damage (and a warning)."""
    count = 0
    try:
        with (
            storage.open(uri) as file,
            tarfile.open(fileobj=file, mode="r|*", errorlevel=1, tarinfo=_Header) as tar,
        ):
            key = None
            for info in tar:
                member_key = _split_name(info)
                if member_key is not None and member_key[0] != key:
                    key, count = member_key[0], count + 1
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        logger.warning("%s is damaged after %d samples (%s): what lies behind is left out", uri, count, error)
    return count


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


def write_samples(
    storage: Storage,
    uri: str,
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    *,
    digest: ContentDigest | None = None,
) -> int:
    """Write (key, members) as a plain tar, byte for byte the same for the same samples; returns their number.

    Args:
        storage: where the tar goes.
        uri: its name.
        samples: pairs in order.
        digest: takes the size and the SHA-256 of the tar.
    """
    count = 0
    with (
        storage.writer(uri) as file,
        tarfile.open(
            fileobj=file if digest is None else digest.around(file), mode="w", format=tarfile.USTAR_FORMAT
        ) as tar,
    ):
        for key, members in samples:
            for suffix in sorted(members):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                tar.addfile(info, io.BytesIO(members[suffix]))
            count += 1
    return count
