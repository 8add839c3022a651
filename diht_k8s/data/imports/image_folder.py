"""ImageFolder: a folder for each class, with its images in it or below it. Classes are the sorted folder names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.data.imports.folder_walk import walk
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
)
from diht_k8s.data.imports.source_files import SourceFile
from diht_k8s.data.imports.tally import Tally, by_suffix

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
        named: whether the user says that it is of this layout; otherwise one folder is no class, nor is one that holds files
            and no image.

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
