"""COCO's and Flickr's captions: annotation files and Karpathy's splits, several captions an image."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.provenance import kept_columns, named_path
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    SourceFile,
    Tally,
    printable,
)


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again") from error


def image_folder_of(path: Path, given: Path | None, names: Sequence[str], first: Sequence[str]) -> Path:
    """The folder that holds the images of an annotation file: the one given, else the first in which one of some is.

    Args:
        path: the annotation file.
        given: what the user said.
        names: folders to look at, beside the file.
        first: file names of some images, of which a few may be missing.

    Raises:
        UserError: no folder has one of them.
    """
    places = [given] if given is not None else [path.parent / name for name in ("", *names)]
    places = [place for parent in places for place in (parent, *(parent / name for name in names))]
    found = next((place for place in dict.fromkeys(places) if any(_is_file(place / name) for name in first)), None)
    if found is None:
        where = str(given) if given is not None else f"{path.parent} or its folders {', '.join(names)}"
        raise UserError(f"{printable(first[0])} of {path} is not in {where}: name the folder of the images by --images")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False


FOLDERS: Final = (
    "images",
    "val2014",
    "train2014",
    "val2017",
    "train2017",
    "test2015",
    "flickr30k_images",
    "flickr30k-images",
    "Images",
    "Flicker8k_Dataset",
)
"""Folders in which the images of COCO and Flickr are unpacked."""
HUGGING_FACE_HEADER: Final = "raw,sentids,split,filename,img_id"
"""First line of Flickr30k's table on Hugging Face."""
KAGGLE_HEADER: Final = ("image_name", "comment_number", "comment")
"""First line of Flickr30k's `results.csv` on Kaggle, whose cells `|` divides."""
_KAGGLE_LINE: Final = re.compile(r"([^|]+)\|\s*\d+\s*\|?\s*(.*)")
"""One line of it has no second `|`: `2199200615.jpg| 4   A dog runs across the grass .`"""
_TOKENS: Final = re.compile(r"[^\t]+#\d+\t")
NO_IMAGE: Final = "annotation_without_image"
NO_CAPTION: Final = "image_without_caption"
"""Why an entry is ignored: its counterpart is missing."""
LOOKED_AT: Final = 100
"""Images of which one must lie where it should: a few files may be missing."""


def is_coco(document: Any) -> bool:
    """Whether a JSON document is a caption file of COCO."""
    return _has_lists(document, "images", "annotations") and _any_has(document["annotations"], "caption")


def is_karpathy(document: Any) -> bool:
    """Whether a JSON document is one of Karpathy's files (dataset_coco.json, dataset_flickr30k.json)."""
    return _has_lists(document, "images") and _any_has(document["images"], "sentences")


@dataclass
class Captioned:
    """Images of an annotation file with their captions, and the entries that give none."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    """name of an image -> its captions, in the order of the file."""
    rows: dict[str, str] = field(default_factory=dict)
    """name of an image -> its entry: `line 7`."""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name of an image -> the other fields of its entry."""
    beside: int = 0
    """entries that are captions of an image that has an entry of its own, or has one before."""
    ignored: Tally = field(default_factory=Tally)
    """entries that give no caption, by reason."""


def read_coco(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """A caption file of COCO, also one of a Karpathy split in that form: one split, so `options.split` is not read.

    Entries that lack a field, and those without their counterpart, are counted.

    Raises:
        UserError: the images are not found.
        DataError: no image has a caption.
    """
    found, said = Captioned(), dict[Any, list[tuple[int, str]]]()
    for number, entry in enumerate(document["annotations"]):
        caption, image = _field(entry, "caption", str), _field(entry, "image_id", (str, int))
        if caption is None or image is None:
            found.ignored.add(
                "annotation_without_caption" if caption is None else NO_IMAGE, f"{path} annotation {number}"
            )
        else:
            said.setdefault(image, []).append((number, caption))
    images = sorted(enumerate(document["images"]), key=lambda each: str(_field(each[1], "id", (str, int))).zfill(20))
    for number, entry in images:
        name, own = _field(entry, "file_name", str), said.pop(_field(entry, "id", (str, int)), None)
        if not name:
            found.ignored.add("entry_without_name", f"{path} image {number}")
            for caption, _ in own or ():
                found.ignored.add(NO_IMAGE, f"{path} annotation {caption}")
        elif own is None:
            found.ignored.add(NO_CAPTION, f"{path} image {number}: {name}")
        else:
            found.beside += len(own) + (name in found.captions)
            found.captions.setdefault(name, []).extend(caption for _, caption in own)
            found.rows[name] = f"image {entry['id']}"
            found.columns[name] = kept_columns({key: value for key, value in entry.items() if key != "file_name"})
    for left in said.values():
        for number, _ in left:
            found.ignored.add(NO_IMAGE, f"{path} annotation {number}")
    seen = len(document["annotations"]) + len(document["images"])
    return _source("coco-captions", path, options, found, SeenUnits("entries", seen, found.beside, found.ignored))


def read_karpathy(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """One split of Karpathy's file; entries that lack a field are counted.

    Raises:
        UserError: there is no such split, or the images are not found.
        DataError: no image has a caption.
    """
    entries = document["images"]
    splits = sorted({str(_field(entry, "split", str)) for entry in entries})
    if options.split not in splits:
        raise UserError(f"{path} has no split {options.split}: choose one by --split ({', '.join(splits)})")
    found = Captioned()
    for number, entry in enumerate(entries):
        place, split = f"{path} image {number}", str(_field(entry, "split", str))
        name = _field(entry, "filename", str)
        sentences = _field(entry, "sentences", list) or []
        said = [text for each in sentences if (text := _field(each, "raw", str)) is not None]
        if split != options.split:
            found.ignored.add(f"split_{printable(split)[:40]}", place)
        elif not name:
            found.ignored.add("entry_without_name", place)
        elif not said:
            found.ignored.add(NO_CAPTION, f"{place}: {name}")
        else:
            name = "/".join([*([parent] if (parent := _field(entry, "filepath", str)) else []), name])
            found.beside += name in found.captions
            found.captions.setdefault(name, []).extend(said)
            found.rows[name] = f"image {number}"
            others = {key: value for key, value in entry.items() if key not in ("filename", "filepath", "sentences")}
            found.columns[name] = kept_columns(others)
    seen = SeenUnits("entries", len(entries), found.beside, found.ignored)
    try:
        return _source("karpathy", path, options, found, seen)
    except UserError:  # COCO's images may lie in one folder, without the one that the file names
        return _source("karpathy", path, options, found, seen, plain=True)


def read_caption_lines(path: Path, options: ReaderOptions) -> RecordSource:
    """Flickr30k's captions as one of its four files has them, known by its first line.

    Those of Hugging Face (`flickr_annotations_30k.csv`) and of Kaggle (`results.csv`), the original
    `results_20130124.token`, and lines `IMAGE,CAPTION`, below a header or not, as clip-benchmark has it; commas
    in captions stay.

    Raises:
        UserError: it is none of them, the images are not found, or the table has no such split.
        DataError: no line can be read.
    """
    if is_flickr_table(path):
        return read_flickr_table(path, options)
    if is_kaggle_table(path):
        return read_kaggle_table(path, options)
    if is_tokens(path):
        return read_tokens(path, options)
    if b".jpg," not in path.read_bytes():
        raise UserError(
            f"{path} is no caption file of Flickr30k: expected lines IMAGE.jpg,CAPTION below a header, Kaggle's "
            "results.csv, Hugging Face's flickr_annotations_30k.csv or results_20130124.token"
        )

    def parts(line: str) -> tuple[str, str] | None:
        name, suffix, caption = line.strip().partition(".jpg,")
        return (f"{name}.jpg", caption.strip()) if suffix else None

    return _from_lines("flickr-captions", path, options, parts, header=0 if parts(_first_line(path)) else 1)


def is_flickr_table(path: Path) -> bool:
    """Whether a file is Flickr30k's table on Hugging Face, by its header."""
    return _first_line(path).strip() == HUGGING_FACE_HEADER


def is_kaggle_table(path: Path) -> bool:
    """Whether a file is Flickr30k's `results.csv` on Kaggle, by its header."""
    return tuple(cell.strip() for cell in _first_line(path).split("|")) == KAGGLE_HEADER


def is_tokens(path: Path) -> bool:
    """Whether a file is Flickr's own (`results_20130124.token`, `Flickr8k.token.txt`), by its first line."""
    return _TOKENS.match(_first_line(path)) is not None


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        return file.readline()


def read_flickr_table(path: Path, options: ReaderOptions) -> RecordSource:
    """One split of Flickr30k's table on Hugging Face: a JSON list of captions in `raw`, the split in `split`.

    Raises:
        UserError: there is no such split, or the images are not found.
        DataError: no image has a caption, or the table is cut.
    """
    found, splits, seen = Captioned(), set[str](), 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, row in enumerate(_rows(file, path), start=1):
            seen, place = number, f"{path} row {number}"
            split, name, said = row.get("split") or "", row.get("filename"), _captions_in(row.get("raw"))
            splits.add(split)
            if split != options.split:
                found.ignored.add(f"split_{printable(split)[:40]}", place)
            elif not name:
                found.ignored.add("entry_without_name", place)
            elif not said:
                found.ignored.add(NO_CAPTION, place)
            else:
                found.beside += name in found.captions
                found.captions.setdefault(name, []).extend(said)
                found.rows.setdefault(name, f"row {number}")
    if options.split not in splits:
        named = ", ".join(printable(split) for split in sorted(splits))
        raise UserError(f"{path} has no split {options.split}: choose one by --split ({named})")
    return _source("flickr-captions", path, options, found, SeenUnits("rows", seen, found.beside, found.ignored))


def _rows(file: TextIO, path: Path) -> Iterator[Mapping[str, str | None]]:
    try:
        yield from csv.DictReader(file, strict=True)  # else a quote without its end would hide all rows behind it
    except csv.Error as error:
        raise DataError(f"{path} is no whole table ({error}): fetch it again") from error


def _captions_in(raw: str | None) -> list[str]:
    """The texts of a JSON list; none where it is something else."""
    try:
        listed = json.loads(raw or "")
    except (ValueError, RecursionError):
        return []
    return [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []


def read_kaggle_table(path: Path, options: ReaderOptions) -> RecordSource:
    """Flickr30k's table on Kaggle, lines `IMAGE| NUMBER| CAPTION`.

    Raises:
        UserError: the images are not found.
        DataError: no line can be read.
    """

    def parts(line: str) -> tuple[str, str] | None:
        found = _KAGGLE_LINE.fullmatch(line.rstrip())
        return (found[1].strip(), found[2].strip()) if found else None

    return _from_lines("flickr-captions", path, options, parts, header=1)


def read_tokens(path: Path, options: ReaderOptions) -> RecordSource:
    """Flickr30k's own file, lines `IMAGE#NUMBER<tab>CAPTION`; the captions of an image become those of one record.

    Raises:
        UserError: the images are not found.
        DataError: no line can be read.
    """

    def parts(line: str) -> tuple[str, str] | None:
        place, tab, caption = line.rstrip("\r\n").partition("\t")
        name, sign, _ = place.rpartition("#")
        return (name, caption.strip()) if tab and sign and name else None

    return _from_lines("flickr-tokens", path, options, parts)


def _from_lines(
    kind: str, path: Path, options: ReaderOptions, parts: Callable[[str], tuple[str, str] | None], header: int = 0
) -> RecordSource:
    """Captions from lines, each of which names an image; those that cannot be read are counted."""
    found, text = Captioned(), path.read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = text.decode(errors="surrogateescape").split("\n")
    for number, line in enumerate(lines[header:], start=1 + header):
        if not line.strip():
            continue
        named = parts(line)
        if named is None:
            found.ignored.add("line_unreadable", f"{path} line {number}")
            continue
        name, caption = named
        found.beside += name in found.captions
        found.captions.setdefault(name, []).append(caption)
        found.rows.setdefault(name, f"line {number}")
    seen = sum(1 for line in text.split(b"\n")[header:] if line.decode(errors="surrogateescape").strip())
    return _source(kind, path, options, found, SeenUnits("lines", seen, found.beside, found.ignored))


def _source(
    kind: str, path: Path, options: ReaderOptions, found: Captioned, seen: SeenUnits, *, plain: bool = False
) -> RecordSource:
    """The records of the images; `plain` looks for their names without folders."""
    if not found.captions:
        why = "; ".join(seen.ignored.lines("left out"))
        raise DataError(f"{path} has no image with a caption{f' ({why})' if why else ''}: fetch it again")
    names = {name: name.rpartition("/")[2] if plain else name for name in found.captions}
    folder = image_folder_of(path, options.images, FOLDERS, list(names.values())[:LOOKED_AT])
    roots = options.roots(path.parent)
    records = [
        ImageRecord(
            str(folder / names[name]),
            SourceFile(folder / names[name], roots),
            captions=tuple(captions),
            path=named_path(folder / names[name], path.parent, options.images),
            row=f"{path.name} {found.rows[name]}",
            columns=found.columns.get(name, {}),
        )
        for name, captions in found.captions.items()
    ]
    said = [os.path.relpath(folder, path.parent), list(found.captions.items())]
    return RecordSource.listed(kind, "Retrieval", records, said, seen=seen)


def _field(entry: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of an entry; None where the entry is no object, or the field is missing or of another type."""
    value = entry.get(name) if isinstance(entry, Mapping) else None
    return value if isinstance(value, kind) else None


def _any_has(entries: list[Any], name: str) -> bool:
    return any(isinstance(entry, Mapping) and name in entry for entry in entries)


def _has_lists(document: Any, *names: str) -> bool:
    return isinstance(document, Mapping) and all(isinstance(document.get(name), list) for name in names)
