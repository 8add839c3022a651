"""ImageFolder: a folder for each class, with its images in it or below it. Classes are the sorted folder names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.imports.records import ImageRecord, ReaderOptions, RecordSource, fingerprint, reader_of

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
SPLITS: Final = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
_SYNSET: Final = re.compile(r"n\d{8}")


def read_image_folder(folder: Path, options: ReaderOptions) -> RecordSource:
    """The images of ROOT/SPLIT/CLASS/*, or of ROOT/CLASS/* where the root has no split folders.

    Raises:
        UserError: the split is missing, there are no class folders, or they hold no images.
    """
    root = split_folder(folder, options.split)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{root} has no folders: an ImageFolder has one for each class, CLASS/IMAGE.jpg")
    records = [
        ImageRecord(str(path), path, label=label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    if not records:
        raise UserError(f"{root} holds no images in its {len(classes)} folders: name a folder of CLASS/IMAGE.jpg")
    filled = {record.label for record in records}
    empty = [name for label, name in enumerate(classes) if label not in filled]
    notes = [f"{len(empty)} classes have no image, for example {empty[0]}"] if empty else []
    synsets = all(map(_SYNSET.fullmatch, classes))
    if synsets and len(classes) != 1000:
        notes.append("class names are WordNet ids: give names by --class-names")
    return RecordSource(
        kind="image-folder",
        type="Classification",
        total=len(records),
        read=reader_of(records),
        fingerprint=fingerprint([[record.place.removeprefix(f"{root}/"), record.label] for record in records]),
        class_names=tuple(name.replace("_", " ") for name in classes),
        texts="imagenet1k" if synsets and len(classes) == 1000 else None,
        notes=tuple(notes),
    )


def split_folder(folder: Path, split: str) -> Path:
    """FOLDER/SPLIT, or the folder itself where it has no split folders.

    Raises:
        UserError: the folder has other splits only.
    """
    if (folder / split).is_dir():
        return folder / split
    others = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name.lower() in SPLITS)
    if others:
        raise UserError(f"{folder} has no split {split}: choose one by --split ({', '.join(others)})")
    return folder
