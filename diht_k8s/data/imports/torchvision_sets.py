"""Data sets that torchvision opens from files on disk, by its own classes; nothing is downloaded.

Numbers and names of classes are torchvision's. Where clip-benchmark has as many names of the set, it has better ones.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from PIL import Image

from diht_k8s.api.errors import DataError, UserError, in_one_line
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SourceFile,
    SourceRoots,
    fingerprint,
    reader_of,
    stats_digest,
)
from diht_k8s.data.shards.images import BadImageError

VOC: Final = "voc2007_multilabel"
TORCHVISION_SETS: Final = {
    "caltech101": "Caltech101",
    "cars": "StanfordCars",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "country211": "Country211",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "fashion-mnist": "FashionMNIST",
    "fgvc_aircraft": "FGVCAircraft",
    "flowers": "Flowers102",
    "food101": "Food101",
    "gtsrb": "GTSRB",
    "imagenet1k": "ImageNet",
    "kmnist": "KMNIST",
    "mnist": "MNIST",
    "pcam": "PCAM",
    "pets": "OxfordIIITPet",
    "renderedsst2": "RenderedSST2",
    "stl10": "STL10",
    "sun397": "SUN397",
    "svhn": "SVHN",
    "usps": "USPS",
    VOC: "VOCDetection",
}
"""Name of the benchmark -> torchvision's class."""
UNNAMED: Final = {"flowers": 102, "gtsrb": 43, "pcam": 2, "svhn": 10, "usps": 10}
"""Number of classes of the sets that name none: their numbers are the names."""
VOC_CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
_VOC_NUMBERS: Final = {name.replace(" ", ""): number for number, name in enumerate(VOC_CLASSES)}


def read_torchvision(name: str, folder: Path, options: ReaderOptions) -> RecordSource:
    """One split of a data set; of Pascal VOC whole images with all of their classes.

    Args:
        name: one of `TORCHVISION_SETS`.
        folder: the `root` of torchvision's class.
        options: the split; sets without splits are `test`.

    Raises:
        UserError: there is no such split, or a package for the format is missing.
        DataError: files are missing or damaged.
    """
    with _as_own_errors(name, folder, options.split):
        dataset = _opened(name, folder, options.split)
        if name == VOC:
            records = _voc_records(dataset, options.roots(folder))
        else:
            records = _file_records(dataset, options.roots(folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = VOC_CLASSES if name == VOC else _class_names(dataset) or tuple(map(str, range(UNNAMED[name])))
    return RecordSource(
        kind=name,
        type="MultiLabel" if name == VOC else "Classification",
        total=len(dataset),
        read=_decoding_reader(dataset, folder) if records is None else reader_of(records),
        fingerprint=fingerprint([name, options.split, len(dataset), stats_digest(files)]),
        class_names=names,
        texts=name.removesuffix("_multilabel"),
    )


@contextlib.contextmanager
def _as_own_errors(name: str, folder: Path, split: str) -> Iterator[None]:
    """Every class of torchvision has its own way to say that a file is missing or damaged."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lacking = error if isinstance(error, ModuleNotFoundError) else error.__context__
        if isinstance(lacking, ModuleNotFoundError):
            raise UserError(f"{name} needs the package {lacking.name}: pip install {lacking.name}") from error
        said = in_one_line(error, 1000).partition(" You can use download")[0]
        what = f"{folder} cannot be read as {name}, split {split} ({said[:200].rstrip('.')})"
        if "Unknown value" in said:
            raise UserError(f"{what}: choose another by --split") from error
        raise DataError(f"{what}: fetch the files again, and lay them out as torchvision does") from error


def _opened(name: str, folder: Path, split: str) -> Any:
    import torchvision.datasets

    make: Callable[..., Any] = getattr(torchvision.datasets, TORCHVISION_SETS[name])
    arguments: dict[str, Any] = {"year": "2007"} if name == VOC else {}
    parameters = inspect.signature(make).parameters
    if (key := next((key for key in ("split", "image_set") if key in parameters), None)) is not None:
        return make(str(folder), **{key: split}, **arguments)
    splits = ("train", "test") if "train" in parameters else ("test",)
    if split not in splits:
        raise UserError(f"{name} has no split {split}: choose one by --split ({', '.join(splits)})")
    return make(str(folder), **({"train": split == "train"} if "train" in parameters else {}))


def _file_records(dataset: Any, roots: SourceRoots) -> list[ImageRecord] | None:
    """The images of a set that keeps each in a file, whose bytes stay as they are; None of other sets.

    They are sorted by path, since some sets come as the disk lists them.
    """
    listed = (getattr(dataset, name, None) for name in ("samples", "_samples", "_image_files", "_images"))
    found = next((each for each in listed if isinstance(each, list)), None)
    if found is None:
        return None
    pairs = found if isinstance(found[0], tuple) else zip(found, dataset._labels, strict=True)
    pairs = sorted((str(path), int(label)) for path, label in pairs)
    return [ImageRecord(path, SourceFile(Path(path), roots), label) for path, label in pairs]


def _voc_records(dataset: Any, roots: SourceRoots) -> list[ImageRecord]:
    """Whole images; one counts neither way for a class whose objects are all difficult, as in the development kit."""
    records = list[ImageRecord]()
    for image, annotation in zip(dataset.images, dataset.annotations, strict=True):
        root = ElementTree.parse(annotation).getroot()  # noqa: S314 - small, and expat bounds entities
        found = dataset.parse_voc_xml(root)["annotation"]["object"]
        present = {_VOC_NUMBERS[each["name"]] for each in found}
        counted = {_VOC_NUMBERS[each["name"]] for each in found if each.get("difficult") != "1"}
        meta = {"classes": sorted(counted), "ignored_classes": sorted(present - counted)}
        records.append(ImageRecord(image, SourceFile(Path(image), roots), meta=meta))
    return records


def _decoding_reader(dataset: Any, folder: Path) -> Callable[[int, int], Iterator[ImageRecord]]:
    """Images that lie in a file of many."""
    names = ("targets", "labels", "y")
    labels = next((found for name in names if (found := getattr(dataset, name, None)) is not None), None)

    def image(row: int) -> Callable[[], Image.Image]:
        def load() -> Image.Image:
            try:
                return dataset[row][0]
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise BadImageError("picture_unreadable") from error

        return load

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for row in range(start, stop):
            label = dataset[row][1] if labels is None else labels[row]
            yield ImageRecord(f"{folder} image {row}", image(row), int(label))

    return read


def _class_names(dataset: Any) -> tuple[str, ...]:
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", ())
    first = (name[0] if isinstance(name, tuple) else name for name in names)  # ImageNet's have several
    return tuple(name.replace("_", " ").strip() for name in first)
