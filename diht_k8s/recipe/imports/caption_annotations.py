"""COCO's and Flickr's captions: annotation files and Karpathy's splits, several captions an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.imports.annotation_files import image_folder_of, text_of
from diht_k8s.recipe.imports.records import ImageRecord, ReaderOptions, RecordSource, fingerprint, reader_of

FOLDERS: Final = (
    "images", "val2014", "train2014", "val2017", "train2017", "test2015", "flickr30k_images", "flickr30k-images",
    "Images", "Flicker8k_Dataset",
)  # fmt: skip
"""Folders in which the images of COCO and Flickr are unpacked."""
LOOKED_AT: Final = 100
"""Images of which one must lie where it should: a few files may be missing."""


def is_coco(document: Any) -> bool:
    """Whether a JSON document is a caption file of COCO."""
    return _has_lists(document, "images", "annotations") and "caption" in next(iter(document["annotations"]), {})


def is_karpathy(document: Any) -> bool:
    """Whether a JSON document is one of Karpathy's files (dataset_coco.json, dataset_flickr30k.json)."""
    return _has_lists(document, "images") and "sentences" in next(iter(document["images"]), {})


def read_coco(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """A caption file of COCO, also one of a Karpathy split in that form; it is one split, so `options.split` is not read.

    Raises:
        UserError: the images are not found.
        DataError: an entry lacks a field.
    """
    captions: dict[Any, list[str]] = {}
    for entry in document["annotations"]:
        captions.setdefault(entry.get("image_id"), []).append(text_of(entry, "caption", path))
    images = [entry for entry in document["images"] if captions.get(entry.get("id"))]
    images.sort(key=lambda entry: str(entry["id"]).zfill(20))
    found = [(text_of(entry, "file_name", path), captions[entry["id"]]) for entry in images]
    without = len(document["images"]) - len(images)
    notes = (f"{without} images without a caption are left out",) if without else ()
    return _source("coco-captions", path, options, found, notes)


def read_karpathy(path: Path, document: Any, options: ReaderOptions) -> RecordSource:
    """One split of Karpathy's file.

    Raises:
        UserError: there is no such split, or the images are not found.
        DataError: an entry lacks a field.
    """
    splits = sorted({str(entry.get("split")) for entry in document["images"]})
    if options.split not in splits:
        raise UserError(f"{path} has no split {options.split}: choose one by --split ({', '.join(splits)})")
    found: list[tuple[str, list[str]]] = []
    for entry in document["images"]:
        if entry.get("split") == options.split:
            name = "/".join([*([entry["filepath"]] if entry.get("filepath") else []), text_of(entry, "filename", path)])
            found.append((name, [text_of(sentence, "raw", path) for sentence in entry["sentences"]]))
    try:
        return _source("karpathy", path, options, found, ())
    except UserError:  # COCO's images may lie in one folder, without the one that the file names
        return _source("karpathy", path, options, [(name.rpartition("/")[2], said) for name, said in found], ())


def read_caption_lines(path: Path, options: ReaderOptions) -> RecordSource:
    """Lines `IMAGE,CAPTION` below a header: Flickr30k as clip-benchmark and Kaggle have it; commas in captions stay.

    Raises:
        UserError: the images are not found.
        DataError: a line has no image name.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text().splitlines()[1:], start=2):
        if not line.strip():
            continue
        name, suffix, caption = line.strip().partition(".jpg,")
        if not suffix:
            raise DataError(f"{path}, line {number}, is not IMAGE.jpg,CAPTION: fetch the file again")
        captions.setdefault(f"{name}.jpg", []).append(caption.strip())
    return _source("flickr-captions", path, options, list(captions.items()), ())


def read_tokens(path: Path, options: ReaderOptions) -> RecordSource:
    """Flickr30k's own file, lines `IMAGE#NUMBER<tab>CAPTION`; the captions of an image become those of one record.

    Raises:
        UserError: the images are not found.
        DataError: a line is none of these.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        place, tab, caption = line.partition("\t")
        name, sign, _ = place.rpartition("#")
        if not tab or not sign:
            raise DataError(f"{path}, line {number}, is not IMAGE.jpg#0<tab>CAPTION: fetch the file again")
        captions.setdefault(name, []).append(caption.strip())
    return _source("flickr-tokens", path, options, list(captions.items()), ())


def _source(
    kind: str, path: Path, options: ReaderOptions, found: list[tuple[str, list[str]]], notes: tuple[str, ...]
) -> RecordSource:
    if not found:
        raise DataError(f"{path} has no image with a caption: fetch it again")
    folder = image_folder_of(path, options.images, FOLDERS, [name for name, _ in found[:LOOKED_AT]])
    records = [ImageRecord(str(folder / name), folder / name, captions=tuple(captions)) for name, captions in found]
    return RecordSource(
        kind=kind,
        type="Retrieval",
        total=len(records),
        read=reader_of(records),
        fingerprint=fingerprint([kind, found]),
        notes=notes,
    )


def _has_lists(document: Any, *names: str) -> bool:
    return isinstance(document, Mapping) and all(
        isinstance(document.get(name), list) and all(isinstance(entry, dict) for entry in document[name][:1])
        for name in names
    )
