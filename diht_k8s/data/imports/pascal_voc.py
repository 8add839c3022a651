"""Pascal VOC in two ways: each object cut out by its box, or whole images with all of their classes.

The development kit describes the layout: ImageSets/Main/SPLIT.txt lists images, Annotations/IMAGE.xml their objects,
with those marked difficult. Objects are for top-1 as VTAB's and clip-benchmark's `voc2007` counts it: VOC2007's test
split has 14,976 in 4,952 images. Whole images are for the original task, average precision: where all objects of a
class are difficult, an image counts neither way, as in the kit (ImageSets/Main/CLASS_SPLIT.txt has 0 there, 1 and -1
elsewhere).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    fingerprint,
    reader_of,
    stats_digest,
)
from diht_k8s.data.imports.source_files import SourceFile, SourceFileError, SourceRoots
from diht_k8s.data.imports.tally import Tally, printable
from diht_k8s.data.shards.images import BadImageError

PASCAL_VOC: Final = "pascal-voc"
PASCAL_VOC_IMAGES: Final = "pascal-voc-images"
FOLDERS: Final = ("Annotations", "ImageSets", "JPEGImages")
"""What lies in VOC2007 and its kin, and is no class."""
CLASSES: Final = {
    "aeroplane": "aeroplane",
    "bicycle": "bicycle",
    "bird": "bird",
    "boat": "boat",
    "bottle": "bottle",
    "bus": "bus",
    "car": "car",
    "cat": "cat",
    "chair": "chair",
    "cow": "cow",
    "diningtable": "dining table",
    "dog": "dog",
    "horse": "horse",
    "motorbike": "motorbike",
    "person": "person",
    "pottedplant": "potted plant",
    "sheep": "sheep",
    "sofa": "sofa",
    "train": "train",
    "tvmonitor": "tv monitor",
}
"""Name in the annotations -> in words, in the order of the class numbers."""
LABELS: Final = {name: label for label, name in enumerate(CLASSES)}
_MAX_XML: Final = 1 << 20

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


def find_voc(folder: Path) -> list[Path]:
    """The folders of Pascal VOC, one a year: the folder itself, or those in it or in its VOCdevkit."""
    places = [folder, *folder.iterdir(), *((folder / "VOCdevkit").iterdir() if (folder / "VOCdevkit").is_dir() else ())]
    return sorted({place for place in places if all((place / name).is_dir() for name in FOLDERS)})


@dataclass(frozen=True)
class _Object:
    """An object of an annotation."""

    kind: str
    box: Box
    difficult: bool


def read_voc(kind: str | None, found: list[Path], folder: Path, options: ReaderOptions) -> RecordSource:
    """The objects of a split, or its images.

    Args:
        kind: `PASCAL_VOC_IMAGES` for images, else objects.
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
    names = _text(root / f"ImageSets/Main/{options.split}.txt", roots).split()
    annotations = {name: _text(root / f"Annotations/{name}.xml", roots) for name in names}
    objects = {name: _objects(text, root / f"Annotations/{name}.xml") for name, text in annotations.items()}
    if not any(each.kind in CLASSES for found in objects.values() for each in found):
        raise DataError(f"{root} has no object in its split {options.split}: fetch it again")
    if kind == PASCAL_VOC_IMAGES:
        return _images(root, roots, objects, options)
    number = sum(text.count("<object>") for text in annotations.values())
    return _cut_out(root, roots, objects, options, number)


def _cut_out(
    root: Path, roots: SourceRoots, objects: Mapping[str, Sequence[_Object]], options: ReaderOptions, number: int
) -> RecordSource:
    records, ignored = list[ImageRecord](), Tally()
    for name, found in objects.items():
        image = root / f"JPEGImages/{name}.jpg"
        for row, each in enumerate(found):
            place = f"{image} object {row}"
            if each.kind in LABELS:
                image_of = _cut(SourceFile(image, roots), each.box)
                said = f"Annotations/{name}.xml object {row}"
                records.append(ImageRecord(place, image_of, LABELS[each.kind], row=said))
            else:
                ignored.add(f"object_{printable(each.kind)[:40]}", place)
    return RecordSource(
        kind=PASCAL_VOC,
        type="Classification",
        total=len(records),
        read=reader_of(records),
        fingerprint=_marks(PASCAL_VOC, root, objects, options),
        class_names=tuple(CLASSES.values()),
        texts="voc2007",
        notes=(
            "each object is cut out by its box, difficult ones too; the figure is top-1 over objects. --format "
            f"{PASCAL_VOC_IMAGES} imports whole images for mean average precision",
        ),
        seen=SeenUnits("objects", number, ignored=ignored),
    )


def _images(
    root: Path, roots: SourceRoots, objects: Mapping[str, Sequence[_Object]], options: ReaderOptions
) -> RecordSource:
    records = list[ImageRecord]()
    for name, found in objects.items():
        image = root / f"JPEGImages/{name}.jpg"
        known = [each for each in found if each.kind in LABELS]
        classes = sorted({LABELS[each.kind] for each in known if not each.difficult})
        ignored = sorted({LABELS[each.kind] for each in known} - set(classes))
        meta = {"classes": classes, "ignored_classes": ignored}
        records.append(ImageRecord(str(image), SourceFile(image, roots), meta=meta, row=f"Annotations/{name}.xml"))
    return RecordSource(
        kind=PASCAL_VOC_IMAGES,
        type="MultiLabel",
        total=len(records),
        read=reader_of(records),
        fingerprint=_marks(PASCAL_VOC_IMAGES, root, objects, options),
        class_names=tuple(CLASSES.values()),
        texts="voc2007",
        notes=(
            "images whose objects of a class are all difficult count neither way for it, as in the development kit",
        ),
        seen=SeenUnits("images", len(objects)),
    )


def _marks(kind: str, root: Path, objects: Mapping[str, Sequence[_Object]], options: ReaderOptions) -> str:
    said = {name: [[each.kind, each.box, each.difficult] for each in found] for name, found in objects.items()}
    images = stats_digest(root / f"JPEGImages/{name}.jpg" for name in objects)
    return fingerprint([kind, options.split, list(said.items()), images])


def _text(path: Path, roots: SourceRoots) -> str:
    try:
        return roots.read(path, _MAX_XML).decode(errors="replace")
    except SourceFileError as error:
        raise DataError(f"{path} cannot be read ({error.reason}): fetch Pascal VOC again") from error


def _objects(text: str, path: Path) -> list[_Object]:
    """The objects of an annotation; one is difficult only where it says so."""
    try:
        found = ElementTree.fromstring(text).findall("object")  # noqa: S314 - small, and expat bounds entities
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            _Object(
                (each.findtext("name") or "").strip(),
                tuple[int, int, int, int](int(float(each.findtext(f"bndbox/{side}") or "none")) for side in sides),
                int(each.findtext("difficult") or 0) != 0,
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
