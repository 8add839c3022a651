"""Folders of images: all that lies there, a folder for each class, or a caption in a file beside each image."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.data.imports.records import (
    DANGLING,
    NO_FILE,
    OUTSIDE,
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    SourceFile,
    SourceFileError,
    SourceRoots,
    Tally,
    by_suffix,
    facts_of,
    fingerprint,
)
from diht_k8s.data.shards.samples import CAPTION_KEYS

HIDDEN: Final = "hidden"
"""Why a file is ignored: its name, or that of a folder above it, begins with a dot."""
LINKED_FOLDER: Final = "link_to_folder"
"""Why a link is ignored: it leads to a folder whose files are seen where they lie."""
UNREADABLE: Final = "folder_unreadable"


@dataclass
class FolderWalk:
    """What lies in a folder."""

    files: dict[Path, str | None] = field(default_factory=dict)
    """file -> why it must not be read (None: it may be), in the order of the paths."""
    ignored: Tally = field(default_factory=Tally)
    """what is no file of the data set, by reason."""
    seen: int = 0
    """number of names that are no folders, counted as they were met."""


def walk(folder: Path, roots: SourceRoots) -> FolderWalk:
    """Walk a folder.

    Args:
        folder: where it begins.
        roots: where links may lead.
    """
    found = FolderWalk()
    base = os.path.realpath(folder)
    waiting, visited = [(folder, base, False)], {base}
    while waiting:
        place, real, hidden = waiting.pop()
        for entry in _entries(place, found):
            path, is_hidden = place / entry.name, hidden or entry.name.startswith(".")
            below = os.path.join(real, entry.name)
            if entry.is_symlink():
                found.seen += 1
                target = _target_of(entry.path)
                if not is_hidden and os.path.isdir(target) and _may_enter(target, base, roots, visited):
                    found.seen -= 1  # a folder: its files count
                    below = target
                else:
                    _add_link(found, path, target, roots, hidden=is_hidden)
                    continue
            elif not entry.is_dir():
                found.seen += 1
                _add_file(found, path, entry, hidden=is_hidden)
                continue
            if below not in visited:
                visited.add(below)
                waiting.append((path, below, is_hidden))
    found.files = dict(sorted(found.files.items()))
    return found


def shallow_files(folder: Path, depth: int) -> Iterator[Path]:
    """The files of a folder and of those up to some levels below it, links followed: what lies there, roughly.

    Args:
        folder: where it begins.
        depth: 1 for the folder alone.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        if len(Path(place).relative_to(folder).parts) + 1 >= depth:
            folders.clear()
        yield from (path for name in names if os.path.isfile(path := Path(place, name)))


def _entries(place: Path, found: FolderWalk) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.seen += 1
        found.ignored.add(UNREADABLE, str(place))


def _target_of(link: str) -> str:
    """Where a link leads; the link itself where that cannot be read, because it is gone."""
    try:
        return os.path.realpath(link)
    except OSError:
        return link


def _may_enter(target: str, base: str, roots: SourceRoots, visited: set[str]) -> bool:
    """Whether a link leads to a folder that would not be seen otherwise, and may be."""
    within = target == base or target.startswith(base.rstrip("/") + "/")
    return not within and target not in visited and roots.holds(target)


def _add_link(found: FolderWalk, path: Path, target: str, roots: SourceRoots, *, hidden: bool) -> None:
    if hidden:
        found.ignored.add(HIDDEN, str(path))
    elif os.path.isdir(target):
        found.ignored.add(LINKED_FOLDER if roots.holds(target) else OUTSIDE, str(path))
    elif not os.path.exists(path):  # a loop of links, too
        found.files[path] = DANGLING
    else:
        found.files[path] = roots.refusal(path)


def _add_file(found: FolderWalk, path: Path, entry: os.DirEntry[str], *, hidden: bool) -> None:
    if hidden:
        found.ignored.add(HIDDEN, str(path))
    elif not entry.is_file(follow_symlinks=False):
        found.ignored.add(NO_FILE, str(path))
    else:
        found.files[path] = None


IMAGE_SUFFIXES: Final = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".avif",
    ".heic",
    ".heif",
    ".bmp",
    ".gif",
    ".ppm",
    ".pgm",
    ".tif",
    ".tiff",
)
UNCLASSED: Final = "image_in_no_class"
"""Why a file is ignored: an image beside the folders of the classes."""
SPLITS: Final = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
_SYNSET: Final = re.compile(r"n\d{8}")


def read_image_folder(folder: Path, options: ReaderOptions, *, named: bool = True) -> RecordSource:
    """The images of ROOT/SPLIT/CLASS/*, or of ROOT/CLASS/* where the root has no split folders.

    Args:
        folder: the root.
        options: the split.
        named: whether the user says that it is of this layout; otherwise one folder is no class, nor is one that holds
            files and no image.

    Raises:
        UserError: the split is missing, there are no class folders, they hold no images, or they look like no classes.
    """
    root, roots = split_folder(folder, options.split), options.roots(folder)
    classes = _folders(root)
    if not classes:
        raise UserError(f"{root} has no folders: an ImageFolder has one for each class, CLASS/IMAGE.jpg")
    found, label_of = walk(root, roots), {name: label for label, name in enumerate(classes)}
    images = [path for path in found.files if path.suffix.lower() in IMAGE_SUFFIXES]
    classed = [path for path in images if len(path.relative_to(root).parts) > 1]
    records = [
        ImageRecord(str(path), SourceFile(path, roots), label_of[path.relative_to(root).parts[0]]) for path in classed
    ]
    ignored = Tally(found.ignored)
    for path in sorted({*images} - {*classed}):
        ignored.add(UNCLASSED, str(path))
    ignored.merge(by_suffix(path for path in found.files if path.suffix.lower() not in IMAGE_SUFFIXES))
    if not records:
        raise UserError(f"{root} holds no images in its {len(classes)} folders: name a folder of CLASS/IMAGE.jpg")
    filled = {record.label for record in records}
    if not named:
        _require_classes(root, classes, {classes[label] for label in filled if label is not None}, found.files)
    empty = [name for label, name in enumerate(classes) if label not in filled]
    notes = [f"{len(empty)} classes have no image, for example {empty[0]}"] if empty else []
    synsets = all(map(_SYNSET.fullmatch, classes))
    if synsets and len(classes) != 1000:
        notes.append("class names are WordNet ids: give names by --class-names")
    return RecordSource.listed(
        "image-folder",
        "Classification",
        records,
        [[each.place.removeprefix(f"{root}/"), each.label] for each in records],
        class_names=tuple(name.replace("_", " ") for name in classes),
        texts="imagenet1k" if synsets and len(classes) == 1000 else None,
        notes=tuple(notes),
        seen=SeenUnits("files", found.seen, ignored=ignored),
    )


def _require_classes(root: Path, classes: Sequence[str], filled: Set[str], files: Iterable[Path]) -> None:
    """Refuse to guess that folders are classes.

    Raises:
        UserError: there is one folder alone, or one holds files and no image, as annotations do.
    """
    remedy = "name the layout by --format (image-folder reads the folders as classes)"
    if len(classes) == 1:
        raise UserError(f"{root} has one folder alone, {classes[0]}, which is no choice between classes: {remedy}")
    other = {path.relative_to(root).parts[0] for path in files if len(path.relative_to(root).parts) > 1} - filled
    if other:
        raise UserError(f"{root} is no folder of classes: {min(other)} holds files and no image: {remedy}")


def split_folder(folder: Path, split: str) -> Path:
    """FOLDER/SPLIT, or the folder itself where it has no split folders.

    Raises:
        UserError: the folder has other splits only.
    """
    if (folder / split).is_dir():
        return folder / split
    names = _folders(folder)
    others = [name for name in names if name.lower() in SPLITS]
    is_class = len(others) == 1 < len(names) and not _folders(folder / others[0])  # as CIFAR-100's `train` is one
    if others and not is_class:
        raise UserError(f"{folder} has no split {split}: choose one by --split ({', '.join(others)})")
    return folder


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if os.path.isdir(entry) and not entry.name.startswith("."))


TEXT_SUFFIXES: Final = (".txt", ".caption")
EXPECTED: Final = "NAME.txt, NAME.caption or NAME.json (with `caption` or `text`) beside NAME.jpg"
ORPHAN: Final = "caption_without_image"
"""Why a file is ignored: it could hold a caption, but no image has its name."""
MAX_CAPTION_FILE: Final = 1 << 20

Files = Mapping[Path, str | None]
"""File -> why it must not be read; None where it may be."""


def read_loose_images(folder: Path, options: ReaderOptions) -> RecordSource:
    """The images of a folder and of those below it, in the order of their paths.

    A name may hold dots: the caption of `a.b.jpg` is in `a.b.txt`.

    Raises:
        UserError: there are no images, or none has a caption.
    """
    roots = options.roots(folder)
    found = walk(folder, roots)
    images = [path for path in found.files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{folder} holds no images ({_found(found.files)}): expected {', '.join(IMAGE_SUFFIXES)}")
    texts = {
        (path.with_suffix(""), path.suffix.lower()): path for path in found.files if path.suffix.lower() in _SPOKEN
    }
    companions = [_companions(path, texts) for path in images]
    if not any(companions):
        raise UserError(
            f"none of the {len(images)} images below {folder} has a caption: write {EXPECTED}; or name the table or "
            "annotation file that holds the captions, in place of the folder"
        )
    beside = {path for each in companions for path in each}
    left = [path for path in found.files if path not in beside and path.suffix.lower() not in IMAGE_SUFFIXES]

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for image, near in zip(images[start:stop], companions[start:stop], strict=True):
            yield _record(folder, image, near, roots, options)

    return RecordSource(
        kind="folder",
        type="Pairs",
        total=len(images),
        read=read,
        fingerprint=fingerprint(
            [
                options.caption_column,
                *([str(path.relative_to(folder)), *facts_of(path)] for path in (*images, *sorted(beside))),
            ]
        ),
        seen=SeenUnits("files", found.seen, len(beside), _ignored(left, found.files, found.ignored)),
    )


_SPOKEN: Final = (*TEXT_SUFFIXES, ".json")


def _ignored(left: Sequence[Path], files: Files, ignored: Tally) -> Tally:
    """Why each of the files that are neither image nor caption is ignored."""
    total, others = Tally(ignored), list[Path]()
    for path in left:
        reason = files[path]
        if reason is not None:
            total.add(reason, str(path))
        elif path.suffix.lower() in _SPOKEN:
            total.add(ORPHAN, str(path))
        else:
            others.append(path)
    total.merge(by_suffix(others))
    return total


def _found(files: Iterable[Path]) -> str:
    counts = by_suffix(files)
    common = Counter({suffix: each["count"] for suffix, each in counts.items()}).most_common(4)
    return "its files: " + ", ".join(f"{count} {suffix}" for suffix, count in common) if common else "it is empty"


def _companions(image: Path, texts: Mapping[tuple[Path, str], Path]) -> list[Path]:
    """The files that speak of an image, those of text first."""
    stem = image.with_suffix("")
    return [texts[stem, suffix] for suffix in _SPOKEN if (stem, suffix) in texts]


def _record(
    folder: Path, image: Path, companions: Sequence[Path], roots: SourceRoots, options: ReaderOptions
) -> ImageRecord:
    caption: Any = None
    meta: dict[str, Any] = {}
    problem: str | None = None
    for path in companions:
        is_json = path.suffix.lower() == ".json"
        if not is_json and (options.caption_column or caption is not None):
            continue
        try:
            data = roots.read(path, MAX_CAPTION_FILE)
        except SourceFileError as error:
            problem = problem or f"caption_{error.reason}"
            continue
        if not is_json:
            caption = data.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        elif (given := _object(data)) is not None:
            meta = given
        elif caption is None:
            problem = problem or "json_unreadable"
    if caption is None and meta:
        keys = (options.caption_column,) if options.caption_column else CAPTION_KEYS
        caption = next((meta[key] for key in keys if key in meta), None)
    texts = caption if isinstance(caption, list) else [caption] if caption is not None else []
    if any(not isinstance(text, str) for text in texts):
        problem, texts = problem or "caption_no_text", []
    where = str(image.relative_to(folder))
    return ImageRecord(
        str(image), SourceFile(image, roots), captions=tuple(texts), meta=meta, problem=problem, path=where
    )


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
