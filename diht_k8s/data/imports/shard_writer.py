"""Records as WebDataset shards: every shard appears whole, and the same records give the same bytes.

JPEG, PNG and WebP stay as they are. AVIF and HEIC without transparency become JPEG of quality 95 without subsampling,
because as PNG a photo of a phone takes 20 MB; all else becomes PNG.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from PIL import Image, ImageOps

from diht_k8s.api.errors import DataError, install_line
from diht_k8s.data.imports.records import (
    LINKS_ADVICE,
    OUTSIDE,
    ImageRecord,
    RecordSource,
    SourceFile,
    SourceFileError,
    Tally,
)
from diht_k8s.data.shards.images import BadImageError, check_size, decode, decode_as_reference, in_8_bits, prefetch
from diht_k8s.data.shards.samples import MAX_MEMBER_BYTES
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import TarDigest, write_samples

OTHER_FORMATS: Final = ("BMP", "GIF", "PPM", "TIFF", "AVIF", "HEIF")
"""Formats that shards do not hold."""
LOSSY: Final = ("AVIF", "HEIF")
JPEG: Final = {"quality": 95, "subsampling": 0}
SUFFIXES: Final = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
HEIF_MISSING: Final = "heif_package_missing"
"""Why a record is bad: its image is HEIC, and the package that reads it is not installed."""
_HEIF_PACKAGE: Final = "pi_heif"


def heif_advice() -> str:
    """What to do about HEIC where the package is missing."""
    return f"HEIC is read by an optional package: {install_line('heif')}, then start the import again"


def can_read_heif() -> bool:
    """Whether the optional package for HEIC is installed."""
    return importlib.util.find_spec(_HEIF_PACKAGE) is not None


def encode_image(record: ImageRecord, *, strict: bool = False) -> tuple[str, bytes]:
    """Suffix and bytes of a record's image for a shard.

    Args:
        record: of a data set.
        strict: whether the stages of a run will read it, which refuse what is very large or very small; evaluation
            takes images as open_clip does.

    Raises:
        BadImageError: the image is missing, must not be read, is empty or cannot be decoded.
    """
    if callable(record.image):
        return "png", _png(record.image())
    data = _read(record.image)
    if not data:
        raise BadImageError("picture_empty")
    suffix = next((suffix for magic, suffix in SUFFIXES if data.startswith(magic)), None)
    if suffix is not None:
        (decode if strict else decode_as_reference)(data)
    else:
        suffix, data = _converted(data, strict=strict)
    if len(data) > MAX_MEMBER_BYTES:
        raise BadImageError("picture_file_too_large")
    return suffix, data


def _read(image: SourceFile | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read()
    except SourceFileError as error:
        raise BadImageError(f"picture_{error.reason}") from error


def _converted(data: bytes, *, strict: bool) -> tuple[str, bytes]:
    if _is_heif(data):
        if not can_read_heif():
            raise BadImageError(HEIF_MISSING)
        from pi_heif import register_heif_opener  # pyright: ignore[reportMissingImports] # an optional package

        register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images that are large, but not refused
            image = Image.open(io.BytesIO(data), formats=OTHER_FORMATS)
            if strict:
                check_size(*image.size)
            image.load()
            if image.format in LOSSY:
                upright = ImageOps.exif_transpose(image)
                return ("png", _png(upright)) if upright.has_transparency_data else ("jpg", _jpeg(upright))
            return "png", _png(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError("picture_too_large") from error
    except Exception as error:  # every decoder has its own errors for damaged files
        raise BadImageError("picture_unreadable") from error


def _is_heif(data: bytes) -> bool:
    """Whether the brands at the begin of a file are those of HEIC, and not of AVIF, which is HEIF as well."""
    if data[4:8] != b"ftyp":
        return False
    size = int.from_bytes(data[:4], "big")
    brands = data[8 : min(size, 256)]
    known = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
    return b"avif" not in brands and b"avis" not in brands and any(brand in brands for brand in known)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", icc_profile=image.info.get("icc_profile"), **JPEG)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image = in_8_bits(image)
    mode = image.mode if image.mode in ("L", "RGB", "RGBA") else "RGBA" if image.has_transparency_data else "RGB"
    (image if image.mode == mode else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


THREADS: Final = 4
AHEAD: Final = 32
"""Images that are read before their turn."""

Packed = Sequence[Mapping[str, bytes] | str]
"""The samples of a record, suffix -> content; a text in place of one is the reason why it is bad."""
Pack = Callable[[ImageRecord], Packed]


@dataclass
class ShardFacts:
    """Contents of a shard, and the records left out of it by reason."""

    samples: int = 0
    images: int = 0
    """records of which a sample is stored."""
    size: int = 0
    sha256: str = ""
    bad: Tally = field(default_factory=Tally)
    """records of which nothing is stored."""
    bad_captions: Tally = field(default_factory=Tally)
    """captions of images that are stored with others."""

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> ShardFacts:
        """Facts from plain values."""
        tallies = {name: Tally(document[name]) for name in ("bad", "bad_captions")}
        return cls(**{**document, **tallies})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class EmptyShardError(DataError):
    """No record of a shard can be used."""

    facts = ShardFacts()
    """what was left out, by reason."""


def pack_for_benchmark(record: ImageRecord) -> Packed:
    """One sample a record, with its class and all its captions.

    Raises:
        BadImageError: the record or its image cannot be used.
    """
    if record.problem is not None:
        raise BadImageError(record.problem)
    return [_members(record, *encode_image(record))]


def shard_bounds(total: int, per_shard: int) -> list[tuple[int, int]]:
    """First record of each shard and the one after its last; sizes differ by at most one, none is above `per_shard`."""
    shards = max(1, -(-total // per_shard))
    edges = [total * shard // shards for shard in range(shards + 1)]
    return list(itertools.pairwise(edges))


def write_shard(
    storage: Storage,
    uri: str,
    source: RecordSource,
    start: int,
    stop: int,
    advance: Callable[[], object],
    *,
    pack: Pack,
) -> ShardFacts:
    """Write the records of a range as one shard; records whose image cannot be used are counted and left out.

    Args:
        storage: where the shard goes.
        uri: its name.
        source: of the records.
        start: the first record.
        stop: the one after the last.
        advance: called after each record.
        pack: makes the samples of a record.

    Raises:
        EmptyShardError: no record of the range can be used.
        DataError: the reader gave other records than the range has, or the tar holds other members than were written.
    """
    facts, digest, members_of = ShardFacts(), TarDigest(), list[int]()
    prepare = partial(_pack_or_reason, pack=pack)
    packed_ahead = prefetch(source.read(start, stop), prepare, ahead=AHEAD, threads=THREADS)

    def samples() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for number, (record, packed) in enumerate(packed_ahead, start=start):
            advance()
            _count(facts, record, packed)
            for place, members in enumerate(packed):
                if not isinstance(members, str):
                    members_of.append(len(members))
                    yield f"s{number:07d}{f'-{place}' if len(packed) > 1 else ''}", members
        if (read := facts.images + facts.bad.total) != stop - start:
            raise DataError(
                f"{uri}: {stop - start} records of {source.kind} were to come, {read} came: leave SOURCE alone during "
                "an import, and start it again"
            )
        if not facts.samples:
            raise _empty(facts, source, start, stop)

    write_samples(storage, uri, samples(), digest=digest)
    if digest.starts(members_of) is None:
        raise DataError(f"{uri} does not hold the {sum(members_of)} files that were written into it: start it again")
    facts.size, facts.sha256 = digest.size, digest.sha256
    return facts


def _count(facts: ShardFacts, record: ImageRecord, packed: Packed) -> None:
    problems = [members for members in packed if isinstance(members, str)]
    if len(problems) == len(packed):
        facts.bad.add(problems[0], record.place)
        return
    facts.images += 1
    facts.samples += len(packed) - len(problems)
    for problem in problems:
        facts.bad_captions.add(problem, record.place)


def _members(record: ImageRecord, suffix: str, image: bytes) -> dict[str, bytes]:
    members = {suffix: image}
    if record.label is not None:
        members["cls"] = str(record.label).encode()
    if record.captions:
        captions = "\n".join(" ".join(caption.split()) for caption in record.captions)
        members["txt"] = _utf8(captions, "caption_not_utf8")
    if record.meta:
        members["json"] = _utf8(json.dumps(record.meta, ensure_ascii=False, sort_keys=True), "json_unreadable")
    return members


def _utf8(text: str, problem: str) -> bytes:
    """A text as a shard holds it; lone surrogates stand for bytes that are no UTF-8, or for half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadImageError(problem) from error


def _empty(facts: ShardFacts, source: RecordSource, start: int, stop: int) -> EmptyShardError:
    reason, first = next(iter(facts.bad.items()), ("no records", {"example": source.kind}))
    advice = LINKS_ADVICE if OUTSIDE in reason else "check the path and fetch the files again"
    error = EmptyShardError(
        f"none of the images {start} to {stop - 1} can be used ({reason}, for example {first['example']}): {advice}"
    )
    error.facts = facts
    return error


def _pack_or_reason(record: ImageRecord, pack: Pack) -> Packed:
    try:
        return pack(record)
    except BadImageError as error:
        return [error.reason]
