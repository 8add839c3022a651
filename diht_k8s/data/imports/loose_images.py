"""A folder of images, each with its caption in a file of the same name beside it: .txt, .caption or .json."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.data.imports.folder_walk import walk
from diht_k8s.data.imports.image_folder import IMAGE_SUFFIXES
from diht_k8s.data.imports.records import ImageRecord, ReaderOptions, RecordSource, SeenUnits, facts_of, fingerprint
from diht_k8s.data.imports.source_files import SourceFile, SourceFileError, SourceRoots
from diht_k8s.data.imports.tally import Tally, by_suffix
from diht_k8s.data.shards.samples import CAPTION_KEYS

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
