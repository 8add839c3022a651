"""Samples of a WebDataset shard, read in order, each with its uid, caption and image, or the reason why it is bad."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.base import is_object
from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_reader import Member, TarDamageError, read_members

MAX_CAPTION_BYTES: Final = 16 << 10
CAPTION_KEYS: Final = ("caption", "text")
"""Names of the caption in the .json."""


def caption_of(text: bytes | None, meta: Mapping[str, Any]) -> tuple[str, str | None]:
    """The caption of the .txt, else of the .json, in one line with white space folded; else "" and what is wrong."""
    if text is not None:
        if len(text) > MAX_CAPTION_BYTES:
            return "", "caption_too_long"
        try:
            caption = text.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError:
            return "", "caption_not_utf8"
    else:
        value = next((meta[key] for key in CAPTION_KEYS if key in meta), None)
        if value is None:
            value = next((text for text, _ in weighted_captions(meta)), None)
        if value is None:
            return "", "caption_missing"
        if not isinstance(value, str):
            return "", "caption_no_text"
        caption = value
    caption = fold_whitespace(caption)
    problem = _problem(caption)
    return ("", problem) if problem else (caption, None)


def weighted_captions(meta: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The usable captions of the list with their weights (1 where none are given); none if there is no list.

    Left out are entries that are no text, are empty or too long, and those whose weight is no positive number. Weights
    of another number than the captions count as none.

    Args:
        meta: the .json of the sample.
    """
    texts, weights = meta.get("captions"), meta.get("caption_weights")
    if not isinstance(texts, list):
        return []
    if not isinstance(weights, list) or len(weights) != len(texts):
        weights = [1.0] * len(texts)
    found: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        caption = fold_whitespace(text) if isinstance(text, str) else ""
        if _problem(caption) is None and _is_weight(weight):
            found.append((caption, float(weight)))
    return found


def fold_whitespace(text: str) -> str:
    """One line, white space folded."""
    return " ".join(text.replace("\0", " ").split())


def caption_digest(caption: str) -> str:
    """SHA-256 of a caption, 32 hex digits."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def _problem(caption: str) -> str | None:
    """The problem of a folded caption; None if it is usable."""
    if not caption:
        return "caption_empty"
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        return "caption_too_long"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        return "caption_not_utf8"
    return None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def img2dataset_count(storage: Storage, uri: str) -> int | None:
    """The number of pairs of a shard by the files of img2dataset; None where there are none, or none that states it.

    Args:
        storage: where the shard is.
        uri: of the shard; its name up to the first dot names the files.
    """
    folder, slash, name = uri.rpartition("/")
    stem = f"{folder}{slash}{name.partition('.')[0]}"
    if storage.exists(f"{stem}_stats.json"):
        return stated_successes(storage.read_bytes(f"{stem}_stats.json"))
    if storage.exists(f"{stem}.parquet"):
        return _rows(storage.read_bytes(f"{stem}.parquet"))
    return None


def stated_successes(content: bytes) -> int | None:
    """The number of pairs that a `NAME_stats.json` states; None if it states none."""
    try:
        stats: Any = json.loads(content)
    except ValueError:
        return None
    found = stats.get("successes") if is_object(stats) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _rows(content: bytes) -> int | None:
    try:
        status = pq.read_table(io.BytesIO(content), columns=["status"])["status"]
        return status.to_pylist().count("success")
    except (pa.ArrowException, OSError, KeyError):
        return None


IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp")
MAX_MEMBER_BYTES: Final = 64 << 20
MAX_SAMPLE_BYTES: Final = 2 * MAX_MEMBER_BYTES
TOO_LARGE: Final = "member_too_large"
"""Problem of a sample above one of the limits."""
NOT_REGULAR: Final = "member_not_regular"
"""Problem of a sample with a link or a sparse file as a member."""
UNSAFE_NAME: Final = "name_unsafe"
"""Problem of a sample whose key leads out of the folder into which an archive is unpacked."""


class DamagedShardError(DataError):
    """A shard is damaged: the samples before the damage were delivered, the number of those behind it is unknown."""

    offset = 0
    """number of the first byte that cannot be used, in the unpacked tar."""
    last_key: str | None = None
    """key of the last sample that was delivered."""
    samples = 0
    """number of samples that were delivered."""
    reason = ""
    """what is wrong, in words."""

    @classmethod
    def of(cls, uri: str, damage: TarDamageError, samples: int, last_key: str | None) -> DamagedShardError:
        """The error of a shard whose archive is damaged."""
        last = "" if last_key is None else f", last key {storable(last_key)!r}"
        error = cls(
            f"{uri} is damaged after {samples} samples ({damage.reason}, at byte {damage.offset}{last}): "
            "fetch it again or leave it out of the shards"
        )
        error.offset, error.last_key, error.samples, error.reason = damage.offset, last_key, samples, damage.reason
        return error

    @classmethod
    def empty(cls, uri: str, others: Sequence[str]) -> DamagedShardError:
        """The error of a sound archive without samples; `others` are the files whose names have no suffix."""
        if others:
            error = cls(
                f"{uri} holds no samples: none of its {len(others)} files has a suffix (the first one is "
                f"{storable(others[0])!r}): name them KEY.jpg and KEY.txt, or leave it out of the shards"
            )
            error.reason = "it holds no samples, its files have no suffixes"
        else:
            error = cls(f"{uri} is an empty tar and holds no samples: fetch it again or leave it out of the shards")
            error.reason = "it is an empty tar and holds no samples"
        return error


@dataclass(frozen=True)
class Sample:
    """One pair as a shard holds it."""

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
        return caption_digest(self.caption)


class SamplePlaces:
    """Where the samples of a shard begin, noted while it is read."""

    def __init__(self) -> None:
        self.samples = 0
        """read so far."""
        self._begins = list[int]()
        self._end = 0
        self._known = True

    def add(self, group: SampleGroup) -> None:
        """Note the next sample."""
        self.samples += 1
        if group.span is None:
            self._known = False
        else:
            self._begins.append(group.span[0])
            self._end = group.span[1]

    @property
    def starts(self) -> list[int] | None:
        """First byte of each sample, and the end of the last one; None where bytes alone give no sample."""
        return [*self._begins, self._end] if self._known else None


def read_samples(
    storage: Storage,
    uri: str,
    *,
    check: Callable[[], object] | None = None,
    places: SamplePlaces | None = None,
) -> Iterator[Sample]:
    """The samples of one shard (plain or compressed tar), in order; bad ones carry their reason.

    Args:
        storage: where the shard is.
        uri: its name.
        check: called between members and between chunks of their data; it may raise to stop.
        places: takes where the samples stand.

    Raises:
        DamagedShardError: after the last sample before the damage, or the shard holds no samples.
        DataError: the shard was replaced while it was read.
    """
    count, key, others = 0, None, list[str]()
    with storage.open(uri) as file:
        try:
            for group in grouped(read_members(file, max_bytes=MAX_MEMBER_BYTES, check=check), others):
                if places is not None:
                    places.add(group)
                key = group.key
                yield make_sample(key, group.members, group.problem)
                count += 1
        except TarDamageError as damage:
            if not _is_padding(storage, uri, damage, count):
                raise DamagedShardError.of(uri, damage, count, key) from damage
    if count == 0:
        raise DamagedShardError.empty(uri, others)


def _is_padding(storage: Storage, uri: str, damage: TarDamageError, samples: int) -> bool:
    """Whether zeros behind some samples are the shard's end: img2dataset has counted as many."""
    return damage.unwritten and img2dataset_count(storage, uri) == samples


def until_damage(samples: Iterator[Sample]) -> Iterator[Sample]:
    """The samples before the damage of a shard, for readers of which none is counted."""
    with contextlib.suppress(DamagedShardError):
        yield from samples


def make_sample(key: str, members: Mapping[str, bytes], problem: str | None = None) -> Sample:
    """A sample from its members, with uid, caption and the first thing that is wrong."""
    meta, meta_problem = _meta(members.get("json"))
    caption, caption_problem = caption_of(members.get("txt"), meta)
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in members), None)
    image_problem = "picture_missing" if suffix is None else "picture_empty" if not members[suffix] else None
    if "txt" in members:
        meta_problem = None  # image and caption make a pair without the .json
    if _is_unsafe(key):
        problem = UNSAFE_NAME
    elif problem is None:
        problem = image_problem or meta_problem or caption_problem
    uid = meta.get("uid")
    if not isinstance(uid, str) or not 0 < len(uid) <= 128:
        content = members.get(suffix, b"") if suffix else b""
        uid = hashlib.sha256(
            content + b"\0" + caption.encode() + (b"" if content or caption else key.encode(errors="surrogatepass"))
        ).hexdigest()[:32]
    return Sample(key, members, uid, caption, meta, problem)


def _is_unsafe(key: str) -> bool:
    return key.startswith("/") or ".." in key.split("/")


def split_name(path: str) -> tuple[str, str] | None:
    """Key and lower-case suffix of a member; None if it is not part of a sample."""
    folder, _, name = path.rpartition("/")
    base, dot, suffix = name.partition(".")
    if not dot or not base:
        return None
    return (f"{folder}/{base}" if folder or path.startswith("/") else base), suffix.lower()


class SampleGroup:
    """The members of one sample."""

    def __init__(self, key: str, first: Member) -> None:
        self.key, self.members, self._size = key, dict[str, bytes](), 0
        self.problem: str | None = None
        self.span = first.span
        """first and last byte in the file, as of a `Member`."""

    def add(self, suffix: str, member: Member) -> None:
        """Take a member; one without content gives the sample a problem."""
        self.span = None if self.span is None or member.span is None else (self.span[0], member.span[1])
        self._size += len(member.data or b"")
        self.members[suffix] = member.data or b""
        if not member.regular:
            self.problem = NOT_REGULAR
        elif member.data is None:
            self.problem = TOO_LARGE
        if self._size > MAX_SAMPLE_BYTES:
            self.members, self.problem = dict.fromkeys(self.members, b""), TOO_LARGE


def grouped(members: Iterator[Member], others: list[str]) -> Iterator[SampleGroup]:
    """The members of each sample. A key that follows itself with a suffix again is a new sample.

    Args:
        members: of an archive.
        others: takes the names of those that are not part of a sample, as long as no sample has come.

    Raises:
        TarDamageError: after the sample before the damage; a sample that the damage is known to cut is left out.
    """
    group: SampleGroup | None = None
    try:
        for member in members:
            split = split_name(member.name)
            if split is None:
                if group is None:
                    others.append(member.name)
                continue
            key, suffix = split
            if group is None or key != group.key or suffix in group.members:
                if group is not None:
                    yield group
                group = SampleGroup(key, member)
            group.add(suffix, member)
    except TarDamageError as damage:
        cut = None if damage.name is None else split_name(damage.name)
        if group is not None and (cut is None or cut[0] != group.key or cut[1] in group.members):
            yield group
        raise
    if group is not None:
        yield group


def _meta(data: bytes | None) -> tuple[dict[str, Any], str | None]:
    if data is None:
        return {}, None
    try:
        meta = json.loads(data)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return {}, "json_unreadable"
    return (meta, None) if isinstance(meta, dict) else ({}, "json_unreadable")


def storable(text: str) -> str:
    """A text with lone surrogates replaced: damaged names and JSON may hold them, and no table stores them."""
    return text.encode(errors="replace").decode()


class Survey(NamedTuple):
    """The number of samples of a shard, and its damage."""

    samples: int
    """as many as `read_samples` delivers."""
    damage: DamagedShardError | None
    """what `read_samples` raises after them."""


def survey(
    storage: Storage,
    uri: str,
    *,
    check: Callable[[], object] | None = None,
    places: SamplePlaces | None = None,
) -> Survey:
    """Count the samples of a shard without their data, up to its damage; an empty shard is sound and holds none.

    Args:
        storage: where the shard is.
        uri: its name.
        check: called between members and between chunks of their data; it may raise to stop.
        places: takes where the samples stand.
    """
    count, key = 0, None
    with storage.open(uri) as file:
        try:
            for group in grouped(read_members(file, max_bytes=-1, check=check), []):
                count, key = count + 1, group.key
                if places is not None:
                    places.add(group)
        except TarDamageError as damage:
            if not _is_padding(storage, uri, damage, count):
                return Survey(count, DamagedShardError.of(uri, damage, count, key))
    return Survey(count, None)


def count_samples(storage: Storage, uri: str) -> int:
    """The number of samples that `read_samples` delivers."""
    return survey(storage, uri).samples
