"""The records of a data set in a fixed order, what was seen beside them, and files that are read where they may lie.

A link or a path of a table may name any file of the machine (`caption.txt -> /etc/shadow`), whose content would then be
in the shards. So files are read in SOURCE, in `--images` and where `--allow-links` lets links lead. The image of a
record is read when it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from diht_k8s.api.errors import UserError

MAX_SHOWN: Final = 200
"""Characters of an example: names can be as long as a table's cell."""
MAX_SUFFIXES: Final = 20
"""Suffixes that are told apart: names such as `scan.0001` have one each."""
OTHER_SUFFIXES: Final = "other suffixes"


class Tally(dict[str, dict[str, Any]]):
    """Reason -> `count`, and the `example` that came first."""

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count what was left out.

        Args:
            reason: why.
            example: where the first one lies.
            count: how many.
        """
        found = self.setdefault(reason, {"count": 0, "example": printable(example)})
        found["count"] += count

    def merge(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the counts of another tally."""
        for reason, each in other.items():
            self.add(reason, each["example"], each["count"])

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return sum(each["count"] for each in self.values())

    def lines(self, before: str) -> list[str]:
        """A line for each reason, for people."""
        return [f"{before}: {each['count']} {why}, for example {each['example']}" for why, each in self.items()]


def by_suffix(paths: Iterable[Path]) -> Tally:
    """Files by their suffix in lower case, the commonest ones; the rest is counted together."""
    found = list(paths)
    counts = Counter(_suffix(path) for path in found)
    told = {suffix for suffix, _ in counts.most_common(MAX_SUFFIXES)}
    tally = Tally()
    for path in found:
        suffix = _suffix(path)
        tally.add(suffix if suffix in told else OTHER_SUFFIXES, str(path))
    return tally


def _suffix(path: Path) -> str:
    return printable(path.suffix.lower()) or "no suffix"


def printable(text: str) -> str:
    """A name in one line for people: control characters and lone surrogates as escapes, a long one is cut."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[-MAX_SHOWN // 2 :]}"


MAX_FILE_BYTES: Final = 256 << 20
"""Of a file that is read into memory: above a TIFF of as many pixels as an image may have."""
OUTSIDE: Final = "outside_of_source"
LINKS_ADVICE: Final = "files outside of SOURCE are not read: name where links and paths may lead by --allow-links DIR"
DANGLING: Final = "link_dangling"
NO_FILE: Final = "no_file"
"""Reasons of a `SourceFileError`, beside missing, unreadable and file_too_large."""


class SourceFileError(Exception):
    """A file cannot be read, or must not be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SourceRoots:
    """The folders in which the files of a data set may lie, without links."""

    folders: tuple[str, ...]

    @classmethod
    def of(cls, *folders: Path | None) -> SourceRoots:
        """The folders that are given, links in their own paths followed: the user named them."""
        return cls(tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders if folder is not None)))

    def holds(self, real: str) -> bool:
        """Whether a path without links lies in one of the folders."""
        return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in self.folders)

    def refusal(self, path: Path) -> str | None:
        """Why a file is not read, as far as its name says; None for one that may be."""
        try:
            if not self.holds(os.path.realpath(path)):
                return OUTSIDE
            return None if stat.S_ISREG(path.stat().st_mode) else NO_FILE
        except (FileNotFoundError, NotADirectoryError):
            return DANGLING if os.path.islink(path) else "missing"
        except (OSError, ValueError):  # a loop of links, a name that is too long, a NUL in it
            return DANGLING if os.path.islink(path) else "unreadable"

    def read(self, path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
        """The content of a file.

        Args:
            path: with or without links.
            limit: most bytes.

        Raises:
            SourceFileError: it is not there, is no file, lies elsewhere, is too large or cannot be read.
        """
        if (reason := self.refusal(path)) is not None:
            raise SourceFileError(reason)
        try:
            # a pipe in the file's place must not stop the import
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as file:
                facts = os.fstat(handle)
                if not stat.S_ISREG(facts.st_mode):
                    raise SourceFileError(NO_FILE)
                if not self.holds(_path_of(handle, path)):  # the link was changed since it was looked at
                    raise SourceFileError(OUTSIDE)
                data = file.read(min(facts.st_size, limit) + 1)  # a buffer of as many bytes is made
        except FileNotFoundError as error:
            raise SourceFileError("missing") from error
        except OSError as error:
            raise SourceFileError("unreadable") from error
        if len(data) > limit:
            raise SourceFileError("file_too_large")
        return data


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set, which is read when its record is written."""

    path: Path
    roots: SourceRoots

    def read(self) -> bytes:
        """Its content; raises what `SourceRoots.read` does."""
        return self.roots.read(self.path)


def require_inside(path: Path, roots: SourceRoots) -> None:
    """Check a table or annotation file that was found, not named.

    Raises:
        UserError: it is a link that leaves the folders.
    """
    if roots.refusal(path) == OUTSIDE:
        real = os.path.realpath(path)
        raise UserError(
            f"{path} is a link that leaves SOURCE: it leads to {real}: allow it by "
            f"--allow-links {os.path.dirname(real)}"
        )


def _path_of(handle: int, path: Path) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:  # no /proc
        return os.path.realpath(path)


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set with what is said about it."""

    place: str
    """where it lies, for messages: a file, or a row of one."""
    image: SourceFile | bytes | Callable[[], Image.Image]
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
        """A data set whose records are at hand; `said` of them, as JSON values, and its files make the fingerprint."""
        marks = fingerprint([kind, said, images_digest(records)])
        return cls(kind, type, len(records), reader_of(records), marks, class_names, texts, notes, seen)


@dataclass(frozen=True)
class ReaderOptions:
    """A user's choices of what is read of a data set."""

    split: str = "test"
    images: Path | None = None
    """folder of the images, where the layout does not say it."""
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
    """Size and time of a file; none of one that is not there, or of a folder, whose time changes with its content."""
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
