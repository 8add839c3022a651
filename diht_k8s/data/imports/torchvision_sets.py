"""Data sets that torchvision reads from disk, by its own classes; nothing is downloaded.

Class names follow torchvision's order of labels; where clip-benchmark has better ones in that order, `texts` names them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.matlab_files import apart
from diht_k8s.data.imports.records import ImageRecord, ReaderOptions, RecordSource, file_stats, fingerprint, reader_of
from diht_k8s.data.imports.source_files import SourceFile, SourceRoots
from diht_k8s.data.shards.images import BadImageError

_TRAIN_OR_TEST: Final = {"train": {"train": True}, "test": {"train": False}}


def _splits(*names: str, **renamed: str) -> dict[str, dict[str, Any]]:
    """Splits that the class takes as `split`."""
    return {name: {"split": renamed.get(name, name)} for name in (*names, *renamed)}


@dataclass(frozen=True)
class TorchvisionSet:
    """The layout of one data set on disk, and torchvision's class for it."""

    class_name: str
    """in torchvision.datasets."""
    markers: tuple[str, ...]
    """what lies in the root, any of them; the first folder of one may be named in place of the root."""
    splits: Mapping[str, Mapping[str, Any]]
    """split -> arguments."""
    texts: str | None = None
    """clip-benchmark's name of its texts, which are used if they are as many as the classes."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    replaced: str = ""
    """characters of class names that become spaces, as in clip-benchmark."""
    digits: int = 0
    """number of classes where the data set names none: their numbers are the names."""
    names: tuple[str, ...] = ()
    """class names where the data set names none, and numbers say nothing."""
    numbers: tuple[int, ...] = ()
    """class that each of torchvision's labels becomes, where those are in another order than `texts`."""
    inside: Mapping[str, str] = field(default_factory=dict)
    """what lies in a folder that is a part of the root, and that part's path: archives unpack to other names than torchvision
    gives their folders."""


@dataclass(frozen=True)
class TorchvisionFolder:
    """Where a data set lies."""

    name: str
    folder: Path
    part: str = ""
    """path of the folder below the root that torchvision wants; "" for the root itself."""


_ALL: Final[Mapping[str, Mapping[str, Any]]] = {"test": {}, "all": {}}
"""Sets without splits: all images are the test set, as in clip-benchmark."""

TORCHVISION_SETS: Final = {
    "cifar10": TorchvisionSet("CIFAR10", ("cifar-10-batches-py",), _TRAIN_OR_TEST, "cifar10"),
    "cifar100": TorchvisionSet("CIFAR100", ("cifar-100-python",), _TRAIN_OR_TEST, "cifar100"),
    "stl10": TorchvisionSet("STL10", ("stl10_binary",), _splits("train", "test"), "stl10"),
    "svhn": TorchvisionSet(
        "SVHN", ("test_32x32.mat", "train_32x32.mat"), _splits("train", "test", "extra"), "svhn", digits=10
    ),
    "usps": TorchvisionSet("USPS", ("usps.bz2", "usps.t.bz2"), _TRAIN_OR_TEST, digits=10),
    "gtsrb": TorchvisionSet(
        "GTSRB", ("gtsrb",), _splits("train", "test"), "gtsrb", digits=43, inside={"GT-final_test.csv": "gtsrb"}
    ),
    "food101": TorchvisionSet("Food101", ("food-101",), _splits("train", "test"), "food101", replaced="_"),
    "dtd": TorchvisionSet(
        "DTD",
        ("dtd",),
        _splits("train", "val", "test"),
        "dtd",
        inside={"dtd/labels/test1.txt": "dtd", "labels/test1.txt": "dtd/dtd"},
    ),
    "pets": TorchvisionSet(
        "OxfordIIITPet",
        ("oxford-iiit-pet",),
        _splits("trainval", "test"),
        "pets",
        inside={"annotations/trainval.txt": "oxford-iiit-pet", "annotations/test.txt": "oxford-iiit-pet"},
    ),
    "flowers": TorchvisionSet(
        "Flowers102",
        ("flowers-102",),
        _splits("train", "val", "test"),
        "flowers",
        digits=102,
        inside={"setid.mat": "flowers-102"},
    ),
    "cars": TorchvisionSet(
        "StanfordCars",
        ("stanford_cars",),
        _splits("train", "test"),
        "cars",
        inside={"devkit/cars_meta.mat": "stanford_cars"},
    ),
    "fgvc_aircraft": TorchvisionSet(
        "FGVCAircraft", ("fgvc-aircraft-2013b",), _splits("train", "val", "trainval", "test"), "fgvc_aircraft"
    ),
    "sun397": TorchvisionSet("SUN397", ("SUN397",), _ALL, "sun397", replaced="_/"),
    "eurosat": TorchvisionSet("EuroSAT", ("eurosat",), _ALL, "eurosat", inside={"2750/AnnualCrop": "eurosat"}),
    "country211": TorchvisionSet("Country211", ("country211",), _splits("train", "valid", "test"), "country211"),
    "renderedsst2": TorchvisionSet("RenderedSST2", ("rendered-sst2",), _splits("train", "val", "test"), "renderedsst2"),
    "pcam": TorchvisionSet(
        "PCAM",
        ("pcam",),
        _splits("train", "val", "test"),
        "pcam",
        digits=2,
        inside={"camelyonpatch_level_2_split_test_x.h5": "pcam", "camelyonpatch_level_2_split_train_x.h5": "pcam"},
    ),
    "caltech101": TorchvisionSet(
        "Caltech101",
        ("caltech101",),
        _ALL,
        "caltech101",
        arguments={"target_type": "category"},
        inside={"101_ObjectCategories": "caltech101", "BACKGROUND_Google": "caltech101/101_ObjectCategories"},
    ),
    "fer2013": TorchvisionSet(  # its file numbers angry, disgust, fear, happy, sad, surprise, neutral
        "FER2013",
        ("fer2013/fer2013.csv", "fer2013/icml_face_data.csv"),
        _splits("train", "test"),
        "fer2013",
        names=("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"),
        numbers=(0, 1, 2, 3, 5, 6, 4),
        inside={"fer2013.csv": "fer2013", "icml_face_data.csv": "fer2013"},
    ),
}
"""Name of the layout -> how it is read."""


def find_torchvision(folder: Path, names: Iterable[str] = TORCHVISION_SETS) -> TorchvisionFolder | None:
    """The layout of a folder: torchvision's root, a folder in it, or what the archive of the original unpacks to.

    Args:
        folder: what the user names.
        names: layouts to look for.
    """
    for name in names:
        layout = TORCHVISION_SETS[name]
        for marker, part in layout.inside.items():
            if (folder / marker).exists():
                return TorchvisionFolder(name, folder, part)
        for marker in layout.markers:
            if (folder / marker).exists():
                return TorchvisionFolder(name, folder)
            if folder.name == marker.partition("/")[0] and folder.is_dir() and (folder.parent / marker).exists():
                return TorchvisionFolder(name, folder.parent)
    return None


def read_torchvision(
    kind: str | None, found: TorchvisionFolder | None, folder: Path, options: ReaderOptions
) -> RecordSource:
    """A data set of `TORCHVISION_SETS`.

    Args:
        kind: what the user says; None takes what was found.
        found: by `find_torchvision`, of any layout.
        folder: what the user names.
        options: the split.

    Raises:
        UserError: the layout is not there, there is no such split, or a package for the format is missing.
        DataError: files are missing or damaged.
    """
    if found is None or kind not in (None, found.name):
        found = find_torchvision(folder, [str(kind)])
    if found is None and any(
        (folder / each.partition("/")[0]).exists() for each in TORCHVISION_SETS[str(kind)].markers
    ):
        found = TorchvisionFolder(str(kind), folder)  # a part of its files: torchvision says which are missing
    if found is None:
        markers = [*TORCHVISION_SETS[str(kind)].markers, *TORCHVISION_SETS[str(kind)].inside]
        raise UserError(f"{folder} cannot be read as {kind}: it holds none of {', '.join(markers)}")
    others = [name for name in TORCHVISION_SETS if name != found.name]
    if kind is None and (other := find_torchvision(folder, others)) is not None:
        raise UserError(f"{folder} holds several data sets ({found.name}, {other.name}): say which one by --format")
    layout = TORCHVISION_SETS[found.name]
    if options.split not in layout.splits:
        splits = ", ".join(layout.splits)
        raise UserError(f"{found.name} has no split {options.split}: choose one by --split ({splits})")
    dataset = _opened(found, layout, options.split)
    total = len(dataset)
    marker = found.folder
    if not found.part:
        marker = next((marker / each for each in layout.markers if (marker / each).exists()), marker)
    files = sorted(path for path in marker.rglob("*") if path.is_file()) if marker.is_dir() else [marker]
    return RecordSource(
        kind=found.name,
        type="Classification",
        total=total,
        read=_reader(dataset, marker, layout, options.roots(found.folder)),
        fingerprint=fingerprint([found.name, options.split, total, file_stats(files)]),
        class_names=_class_names(dataset, layout),
        texts=layout.texts,
    )


def _opened(found: TorchvisionFolder, layout: TorchvisionSet, split: str) -> Any:
    import torchvision.datasets

    make: Callable[..., Any] = getattr(torchvision.datasets, layout.class_name)
    name, linked = found.name, _LinkedRoot(found) if found.part else None
    try:
        with apart() if name == "cars" else contextlib.nullcontext():  # torchvision verifies the .mat of other sets
            dataset = make(str(linked.path if linked else found.folder), **layout.splits[split], **layout.arguments)
    except Exception as error:  # every class has its own way to say that a file is missing or damaged
        lacking = error if isinstance(error, ModuleNotFoundError) else error.__context__
        if isinstance(lacking, ModuleNotFoundError):
            raise UserError(f"{name} needs the package {lacking.name}: pip install {lacking.name}") from error
        said = " ".join(str(error).split()) or type(error).__name__
        said = said.partition(" You can use download")[0].rstrip(".")
        raise DataError(
            f"{found.folder} cannot be read as {name}, split {split} ({said[:200]}): fetch the files of the original again, or "
            "name another layout by --format"
        ) from error
    dataset.linked_root = linked
    return dataset


class _LinkedRoot:
    """A root as torchvision wants it, with a link to the source, into which nothing is written; it goes with this object."""

    def __init__(self, found: TorchvisionFolder) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="diht-import-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self._link, self._source = self.path / found.part, found.folder
        self._link.parent.mkdir(parents=True, exist_ok=True)
        self._link.symlink_to(found.folder.resolve())

    def source_of(self, path: str | Path) -> Path:
        """Where a file below the root lies in the source."""
        return self._source / Path(path).relative_to(self._link)


def _reader(
    dataset: Any, marker: Path, layout: TorchvisionSet, roots: SourceRoots
) -> Callable[[int, int], Iterator[ImageRecord]]:
    def image(row: int) -> Callable[[], Image.Image]:
        def load() -> Image.Image:
            try:
                return dataset[row][0]
            except FileNotFoundError as error:
                raise BadImageError("picture_missing") from error
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                raise BadImageError("picture_unreadable") from error

        return load

    paths, labels = _paths(dataset), _labels(dataset)
    if paths is not None and labels is not None:  # in an order of its own, since some sets come as the disk lists them
        if dataset.linked_root is not None:
            paths = [dataset.linked_root.source_of(path) for path in paths]
        pairs = sorted((str(path), int(label)) for path, label in zip(paths, labels, strict=True))
        return reader_of([ImageRecord(path, SourceFile(Path(path), roots), label) for path, label in pairs])

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for row in range(start, stop):
            label = int(dataset[row][1]) if labels is None else int(labels[row])
            yield ImageRecord(f"{marker} image {row}", image(row), layout.numbers[label] if layout.numbers else label)

    return read


def _paths(dataset: Any) -> list[Any] | None:
    """The image files of a set that lies in files, so that their bytes stay as they are."""
    for name in ("samples", "_samples"):  # ImageFolder and its kin; cars, GTSRB, SST2
        found = getattr(dataset, name, None)
        if isinstance(found, list) and found and isinstance(found[0], tuple) and isinstance(found[0][0], str | Path):
            return [path for path, *_ in found]
    for name in ("_image_files", "_images"):  # food, textures, flowers, aircraft, pets, SUN
        found = getattr(dataset, name, None)
        if isinstance(found, list) and found and isinstance(found[0], str | Path):
            return list(found)
    return None


def _labels(dataset: Any) -> Any:
    """All labels where the set has them at hand, so that an image is not decoded for its label."""
    for name in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            return found
    found = getattr(dataset, "_samples", None)
    if isinstance(found, list) and found and isinstance(found[0], tuple) and len(found[0]) == 2:
        if found[0][1] is None:  # FER2013's test.csv
            raise UserError("this split of the original has no labels: fetch its file that has them")
        return [label for _, label in found] if isinstance(found[0][1], int) else None
    return None


def _class_names(dataset: Any, layout: TorchvisionSet) -> tuple[str, ...]:
    if layout.digits or layout.names:
        return layout.names or tuple(map(str, range(layout.digits)))
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", ())
    plain = [name[0] if isinstance(name, tuple) else str(name) for name in names]
    return tuple("".join(" " if letter in layout.replaced else letter for letter in name).strip() for name in plain)
