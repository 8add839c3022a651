"""The records of a data set in a fixed order, and its class names. The image of a record is read when it is written."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diht_k8s.data.imports.downloads import Download
from diht_k8s.data.imports.source_files import SourceFile, SourceRoots
from diht_k8s.data.imports.tally import Tally


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set with what is said about it."""

    place: str
    """where it lies, for messages: a file, or a row of one."""
    image: SourceFile | Download | bytes | Callable[[], Image.Image]
    label: int | None = None
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    """further facts, for the sample's .json."""
    problem: str | None = None
    """why it is bad, where the reader knows it already."""
    path: str = ""
    """of the image's file, relative to SOURCE where it lies there; "" where it lies in no file of its own."""
    row: str = ""
    """of the table or annotation file that names it: `pairs.csv line 7`; "" where none does."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """the row's other columns, as JSON values."""


@dataclass(frozen=True)
class SeenUnits:
    """What a reader saw at a source: each unit is a record, lies beside one, or is ignored."""

    unit: str
    """files, rows, lines or entries."""
    count: int
    """counted apart from the records: by a walk, a footer, or a second reading."""
    beside: int = 0
    """units that belong to a record and are none: files of captions, annotations."""
    ignored: Tally = field(default_factory=Tally)
    """by suffix or reason."""


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
    seen: SeenUnits | None = None
    """None where the layout lists its images itself: these are all that is seen."""

    @classmethod
    def listed(
        cls,
        kind: str,
        type: str,
        records: Sequence[ImageRecord],
        said: object,
        *,
        class_names: tuple[str, ...] = (),
        texts: str | None = None,
        notes: tuple[str, ...] = (),
        seen: SeenUnits | None = None,
    ) -> RecordSource:
        """A data set whose records are all at hand: `said` of them, as JSON values, and its images' files make the fingerprint."""
        marks = fingerprint([kind, said, images_digest(records)])
        return cls(kind, type, len(records), reader_of(records), marks, class_names, texts, notes, seen)


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
    delimiter: str | None = None
    """between the cells of a table in text; None takes the usual one of its suffix."""
    links: tuple[Path, ...] = ()
    """folders outside of the source in which links and paths may lead."""

    def roots(self, folder: Path) -> SourceRoots:
        """Where the files of a data set in a folder may lie."""
        return SourceRoots.of(folder, self.images, *self.links)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The folders of `links`, as an import's configuration names them."""
        return tuple(sorted(SourceRoots.of(*self.links).folders))


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
    return [[path.name, *facts_of(path)] for path in paths]


def facts_of(path: Path) -> list[int]:
    """Size and time of a file; none of one that is not there, or of a folder, whose time changes with what is written there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a NUL or half a character in its name
        return []
    return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else []


def stats_digest(paths: Iterable[Path]) -> str:
    """Digest of the sizes and times of files in their order, for any number of them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{facts_of(path)}\n".encode())
    return digest.hexdigest()


def images_digest(records: Iterable[ImageRecord]) -> str:
    """`stats_digest` of the records' images that lie in files: an image that is repaired makes another import."""
    return stats_digest(record.image.path for record in records if isinstance(record.image, SourceFile))
