"""Pascal VOC's objects, each cut out by its box, with its class: top-1 as VTAB's and clip-benchmark's `voc2007` counts it.

The development kit describes the layout: ImageSets/Main/SPLIT.txt lists images, Annotations/IMAGE.xml their objects, with those
marked difficult. VOC2007's test split has 14,976 objects in 4,952 images. The original task, average precision of whole images
with several classes, is another one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    fingerprint,
    reader_of,
)
from diht_k8s.recipe.imports.source_files import SourceFile, SourceFileError, SourceRoots
from diht_k8s.recipe.imports.tally import Tally, printable
from diht_k8s.recipe.shards.images import BadImageError

PASCAL_VOC: Final = "pascal-voc"
FOLDERS: Final = ("Annotations", "ImageSets", "JPEGImages")
"""What lies in VOC2007 and its kin, and is no class."""
CLASSES: Final = {
    "aeroplane": "aeroplane", "bicycle": "bicycle", "bird": "bird", "boat": "boat", "bottle": "bottle", "bus": "bus",
    "car": "car", "cat": "cat", "chair": "chair", "cow": "cow", "diningtable": "dining table", "dog": "dog",
    "horse": "horse", "motorbike": "motorbike", "person": "person", "pottedplant": "potted plant", "sheep": "sheep",
    "sofa": "sofa", "train": "train", "tvmonitor": "tv monitor",
}  # fmt: skip
"""Name in the annotations -> in words, in the order of the class numbers."""
_MAX_XML: Final = 1 << 20

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


def find_voc(folder: Path) -> list[Path]:
    """The folders of Pascal VOC, one a year: the folder itself, or those in it or in its VOCdevkit."""
    places = [folder, *folder.iterdir(), *((folder / "VOCdevkit").iterdir() if (folder / "VOCdevkit").is_dir() else ())]
    return sorted({place for place in places if all((place / name).is_dir() for name in FOLDERS)})


def read_voc(found: list[Path], folder: Path, options: ReaderOptions) -> RecordSource:
    """The objects of a split.

    Args:
        found: by `find_voc`.
        folder: what the user names.
        options: the split.

    Raises:
        UserError: there are none or several years, or no such split.
        DataError: an annotation is missing or damaged.
    """
    if len(found) != 1:
        years = f" ({', '.join(place.name for place in found)})" if found else ""
        raise UserError(
            f"{folder} holds {len(found)} folders of Pascal VOC{years}: name one that holds {', '.join(FOLDERS)}"
        )
    (root,), roots = found, options.roots(folder)
    lists = sorted(path.stem for path in (root / "ImageSets/Main").glob("*.txt") if "_" not in path.stem)
    if options.split not in lists:
        raise UserError(f"{root} has no split {options.split}: choose one by --split ({', '.join(lists)})")
    records, objects, ignored = list[ImageRecord](), 0, Tally()
    labels = {name: label for label, name in enumerate(CLASSES)}
    for name in _text(root / f"ImageSets/Main/{options.split}.txt", roots).split():
        annotation, image = root / f"Annotations/{name}.xml", root / f"JPEGImages/{name}.jpg"
        text = _text(annotation, roots)
        objects += text.count("<object>")
        for number, (kind, box) in enumerate(_objects(text, annotation)):
            place = f"{image} object {number}"
            if kind in labels:
                row = f"Annotations/{name}.xml object {number}"
                records.append(ImageRecord(place, _cut(SourceFile(image, roots), box), labels[kind], row=row))
            else:
                ignored.add(f"object_{printable(kind)[:40]}", place)
    if not records:
        raise DataError(f"{root} has no object in its split {options.split}: fetch it again")
    return RecordSource(
        kind=PASCAL_VOC,
        type="Classification",
        total=len(records),
        read=reader_of(records),
        fingerprint=fingerprint([PASCAL_VOC, options.split, [[record.row, record.label] for record in records]]),
        class_names=tuple(CLASSES.values()),
        texts="voc2007",
        notes=("each object is cut out by its box, difficult ones too; the figure is top-1 over objects",),
        seen=SeenUnits("objects", objects, ignored=ignored),
    )


def _text(path: Path, roots: SourceRoots) -> str:
    try:
        return roots.read(path, _MAX_XML).decode(errors="replace")
    except SourceFileError as error:
        raise DataError(f"{path} cannot be read ({error.reason}): fetch Pascal VOC again") from error


def _objects(text: str, path: Path) -> list[tuple[str, Box]]:
    """Class and box of each object of an annotation."""
    try:
        found = ElementTree.fromstring(text).findall("object")  # noqa: S314 - small, and expat bounds entities
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            (
                (each.findtext("name") or "").strip(),
                tuple[int, int, int, int](int(float(each.findtext(f"bndbox/{side}") or "none")) for side in sides),
            )
            for each in found
        ]
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no annotation of Pascal VOC ({error}): fetch it again") from error


def _cut(file: SourceFile, box: Box) -> Callable[[], Image.Image]:
    def load() -> Image.Image:
        try:
            image = Image.open(io.BytesIO(file.read()))
            left, upper, right, lower = box
            if not (0 <= left < right <= image.width and 0 <= upper < lower <= image.height):
                raise BadImageError("box_outside_of_picture")  # the crop would be black there, or nothing
            return image.convert("RGB").crop(box)
        except BadImageError:
            raise  # which is a ValueError
        except SourceFileError as error:
            raise BadImageError(f"picture_{error.reason}") from error
        except Image.DecompressionBombError as error:
            raise BadImageError("picture_too_large") from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise BadImageError("picture_unreadable") from error

    return load
