"""A folder of images, each with its caption in a file of the same name beside it: .txt, .caption or .json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.imports.image_folder import IMAGE_SUFFIXES
from diht_k8s.recipe.imports.records import ImageRecord, ReaderOptions, RecordSource, fingerprint
from diht_k8s.recipe.shards.sample_captions import CAPTION_KEYS

TEXT_SUFFIXES: Final = (".txt", ".caption")
EXPECTED: Final = "NAME.txt, NAME.caption or NAME.json (with `caption` or `text`) beside NAME.jpg"


def read_loose_images(folder: Path, options: ReaderOptions) -> RecordSource:
    """The images of a folder and of those below it, in the order of their paths.

    A name may hold dots: the caption of `a.b.jpg` is in `a.b.txt`.

    Raises:
        UserError: there are no images, or none has a caption.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise UserError(f"{folder} holds no images ({_found(files)}): expected {', '.join(IMAGE_SUFFIXES)}")
    there = set(files)
    companions = [_companions(path, there, options) for path in images]
    if not any(companions):
        raise UserError(
            f"none of the {len(images)} images below {folder} has a caption: write {EXPECTED}; or name the table or "
            "annotation file that holds the captions, in place of the folder"
        )

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for image, found in zip(images[start:stop], companions[start:stop], strict=True):
            yield _record(image, found, options)

    marks = [[str(path.relative_to(folder)), *_facts(path)] for path in images]
    marks += [[str(path.relative_to(folder)), *_facts(path)] for found in companions for path in found]
    return RecordSource(kind="folder", type="Pairs", total=len(images), read=read, fingerprint=fingerprint(marks))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _found(files: list[Path]) -> str:
    counted = Counter(path.suffix or "no suffix" for path in files).most_common(4)
    return "its files: " + ", ".join(f"{count} {suffix}" for suffix, count in counted) if counted else "it is empty"


def _facts(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _companions(image: Path, there: set[Path], options: ReaderOptions) -> list[Path]:
    """The files that speak of an image: at most one of text, and its .json."""
    texts = [image.with_suffix(suffix) for suffix in TEXT_SUFFIXES]
    found = [path for path in texts if path in there][:1]
    if (meta := image.with_suffix(".json")) in there:
        found = [meta] if options.caption_column else [*found, meta]
    return found


def _record(image: Path, companions: list[Path], options: ReaderOptions) -> ImageRecord:
    caption: Any = None
    meta: dict[str, Any] = {}
    problem = None
    for path in companions:
        data = path.read_bytes()
        if path.suffix == ".json":
            try:
                given = json.loads(data)
            except (ValueError, RecursionError):
                given = None
            if isinstance(given, dict):
                meta = given
            elif caption is None:
                problem = "json_unreadable"
        else:
            caption = data.decode(errors="surrogateescape")
    if caption is None and meta:
        keys = (options.caption_column,) if options.caption_column else CAPTION_KEYS
        caption = next((meta[key] for key in keys if key in meta), None)
    texts = caption if isinstance(caption, list) else [caption] if caption is not None else []
    if any(not isinstance(text, str) for text in texts):
        problem, texts = "caption_no_text", []
    return ImageRecord(str(image), image, captions=tuple(texts), meta=meta, problem=problem)
