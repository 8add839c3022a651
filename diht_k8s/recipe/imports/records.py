"""The records of a data set in a fixed order, and its class names. The image of a record is read when it is written."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from diht_k8s.recipe.shards.images import BadImageError, decode_as_reference

OTHER_FORMATS: Final = ("BMP", "GIF", "PPM", "TIFF")
"""Formats that shards do not hold; their images are stored as PNG."""
SUFFIXES: Final = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
MISSING: Final = "picture_missing"
"""Why a record is bad: its file is not there."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set with what is said about it."""

    place: str
    """where it lies, for messages: a file, or a row of one."""
    image: Path | bytes | Callable[[], Image.Image]
    label: int | None = None
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    """further facts, for the sample's .json."""
    problem: str | None = None
    """why it is bad, where the reader knows it already."""


@dataclass(frozen=True)
class RecordSource:
    """A data set on disk."""

    kind: str
    """name of its layout."""
    type: str
    """the task, a type of `spec.evaluate.benchmarks`."""
    total: int
    """number of records."""
    read: Callable[[int, int], Iterator[ImageRecord]]
    """the records of a range; the same range gives the same records."""
    fingerprint: str
    """changes with the records."""
    class_names: tuple[str, ...] = ()
    texts: str | None = None
    """the name under which clip-benchmark keeps class names and templates of this set, in the order of the labels."""
    notes: tuple[str, ...] = ()
    """what a user should know of how it was read."""


@dataclass(frozen=True)
class ReaderOptions:
    """A user's choices of what is read of a data set."""

    split: str = "test"
    images: Path | None = None
    """folder of the images, where the layout does not say it."""
    annotations: Path | None = None
    """a second file, for example VQAv2's answers."""
    candidates: int = 100
    """number of answers to choose from, for questions without their own."""
    image_column: str | None = None
    """column of a table that holds the images or their paths; None takes a usual name."""
    caption_column: str | None = None
    """column of a table that holds the captions; None takes a usual name."""


def reader_of(records: Sequence[ImageRecord]) -> Callable[[int, int], Iterator[ImageRecord]]:
    """The `read` of records that are all at hand."""

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        yield from records[start:stop]

    return read


def fingerprint(parts: object) -> str:
    """Digest of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_stats(paths: Sequence[Path]) -> list[list[object]]:
    """Name, size and time of files: what changes with their content, without reading it."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


def encode_image(record: ImageRecord, *, check: Callable[[bytes], object] = decode_as_reference) -> tuple[str, bytes]:
    """Suffix and bytes of a record's image for a shard: JPEG, PNG and WebP as they are, all else as PNG without loss.

    Args:
        record: of a data set.
        check: raises BadImageError for an image of a shard's format that cannot be used.

    Raises:
        BadImageError: the image is missing, empty or cannot be decoded.
    """
    if callable(record.image):
        return "png", _png(record.image())
    if isinstance(record.image, Path):
        try:
            data = record.image.read_bytes()
        except FileNotFoundError as error:
            raise BadImageError(MISSING) from error
        except OSError as error:
            raise BadImageError("picture_unreadable") from error
    else:
        data = record.image
    if not data:
        raise BadImageError("picture_empty")
    suffix = next((suffix for magic, suffix in SUFFIXES if data.startswith(magic)), None)
    if suffix is None:
        return "png", _png(_opened(data))
    check(data)
    return suffix, data


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=OTHER_FORMATS)
        image.load()
    except Image.DecompressionBombError as error:
        raise BadImageError("picture_too_large") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImageError("picture_unreadable") from error
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    (image if image.mode in ("L", "RGB") else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
