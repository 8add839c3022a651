"""Data sets as their makers' archives unpack, small, and scripts that read each without the importer.

`documented` says where the layout is written down. A set that torchvision reads has its class there; `part` is the place that
the download takes below torchvision's root, where its archive unpacks to another name.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat

from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.drawings import IMAGES, drawing, save, two_captions
from tests.recipe.evaluate.imports.original_pixels import FER_EMOTIONS

Labelled = tuple[bytes | np.ndarray, Any]
"""Content of an image's file, or its pixels, and its class or captions."""


@dataclass(frozen=True)
class Download:
    """A download in its true layout."""

    documented: str
    build: Callable[[Path], Path]
    """writes it into an empty folder; what is named for the import."""
    script: Callable[[Path], Iterator[Labelled]]
    """reads what the build has named, without the importer."""
    torchvision: str = ""
    """its class there; "" where it has none that reads these files."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    options: tuple[str, ...] = ()
    """of the import."""
    numbers: tuple[int, ...] = ()
    """class that each of torchvision's labels becomes."""


def _renamed(build: Callable[[Path], Path], inner: str, *beside: str) -> Callable[[Path], Path]:
    """A folder of torchvision's root under the name `download`, with files that the archive has beside."""

    def make(root: Path) -> Path:
        build(root / "made")
        (root / "made" / inner).rename(root / "download")
        _add(root / "download", beside)
        return root / "download"

    return make


def _as_is(build: Callable[[Path], Path], *beside: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        source = build(root / "download")
        _add(source, beside)
        return source

    return make


def _add(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"of the original")


def _folders(root: Path, skipped: str = "") -> Iterator[Labelled]:
    classes = sorted(path.name for path in root.iterdir() if path.name != skipped)
    for label, name in enumerate(classes):
        for path in (root / name).rglob("*.*"):
            yield path.read_bytes(), label


def _cifar(name: str, key: str) -> Callable[[Path], Iterator[Labelled]]:
    def script(root: Path) -> Iterator[Labelled]:
        batch = pickle.loads((root / name).read_bytes(), encoding="latin1")
        for row, label in zip(batch["data"], batch[key], strict=True):
            yield row.reshape(3, 32, 32).transpose(1, 2, 0), label

    return script


def _idx(root: Path) -> Iterator[Labelled]:
    def content(stem: str) -> bytes:
        (path,) = root.rglob(f"t10k-{stem}*")
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()

    pixels = np.frombuffer(content("images"), np.uint8, offset=16).reshape(-1, 28, 28)
    yield from zip(pixels, map(int, np.frombuffer(content("labels"), np.uint8, offset=8)), strict=True)


def idx_packed(root: Path) -> Path:
    """Four .gz, as the makers offer them."""
    originals.ORIGINALS["mnist"](root / "made")
    (root / "mnist").mkdir()
    for path in (root / "made/MNIST/raw").iterdir():
        (root / "mnist" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return root / "mnist"


def idx_of_repository(root: Path) -> Path:
    """The folder data/fashion of the makers' repository, whose name says nothing."""
    packed = idx_packed(root)
    packed.rename(root / "fashion")
    return root / "fashion"


def _stl10(root: Path) -> Iterator[Labelled]:
    pixels = np.fromfile(root / "stl10_binary/test_X.bin", np.uint8).reshape(-1, 3, 96, 96)
    labels = np.fromfile(root / "stl10_binary/test_y.bin", np.uint8)
    yield from ((image.transpose(2, 1, 0), int(label) - 1) for image, label in zip(pixels, labels, strict=True))


def _svhn(root: Path) -> Iterator[Labelled]:
    found = loadmat(root / "test_32x32.mat")
    for row, label in enumerate(found["y"][:, 0]):
        yield found["X"][..., row], int(label) % 10


def _usps(root: Path) -> Iterator[Labelled]:
    for line in bz2.decompress((root / "usps.t.bz2").read_bytes()).decode().splitlines():
        label, *cells = line.split()
        values = np.array([float(cell.partition(":")[2]) for cell in cells])
        yield ((values + 1) / 2 * 255).astype(np.uint8).reshape(16, 16), int(label) - 1


def _gtsrb(root: Path) -> Iterator[Labelled]:
    with (root / "GT-final_test.csv").open() as file:
        for row in csv.DictReader(file, delimiter=";"):
            image = Image.open(root / "GTSRB/Final_Test/Images" / row["Filename"])
            yield np.asarray(image.convert("RGB")), int(row["ClassId"])


def _food(root: Path) -> Iterator[Labelled]:
    listed = json.loads((root / "food-101/meta/test.json").read_text())
    for label, name in enumerate(sorted(listed)):
        for each in listed[name]:
            yield (root / "food-101/images" / f"{each}.jpg").read_bytes(), label


def _dtd(root: Path) -> Iterator[Labelled]:
    names = (root / "dtd/labels/test1.txt").read_text().split()
    classes = sorted({name.partition("/")[0] for name in names})
    for name in names:
        yield (root / "dtd/images" / name).read_bytes(), classes.index(name.partition("/")[0])


def _pets(root: Path) -> Iterator[Labelled]:
    for line in (root / "annotations/test.txt").read_text().splitlines():
        name, label, *_ = line.split()
        yield (root / "images" / f"{name}.jpg").read_bytes(), int(label) - 1


def _flowers(root: Path) -> Iterator[Labelled]:
    labels = loadmat(root / "imagelabels.mat")["labels"][0]
    for number in loadmat(root / "setid.mat")["tstid"][0]:
        yield (root / f"jpg/image_{number:05d}.jpg").read_bytes(), int(labels[number - 1]) - 1


def _cars(root: Path) -> Iterator[Labelled]:
    for row in loadmat(root / "cars_test_annos_withlabels.mat", squeeze_me=True)["annotations"]:
        yield (root / "cars_test" / str(row["fname"])).read_bytes(), int(row["class"]) - 1


def _aircraft(root: Path) -> Iterator[Labelled]:
    data = root / "fgvc-aircraft-2013b/data"
    names = (data / "variants.txt").read_text().splitlines()
    for line in (data / "images_variant_test.txt").read_text().splitlines():
        image, _, name = line.partition(" ")
        yield (data / f"images/{image}.jpg").read_bytes(), names.index(name)


def _sun(root: Path) -> Iterator[Labelled]:
    for label, name in enumerate((root / "SUN397/ClassName.txt").read_text().split()):
        for path in (root / f"SUN397{name}").iterdir():
            yield path.read_bytes(), label


def _pcam(root: Path) -> Iterator[Labelled]:
    import h5py

    stem = root / "camelyonpatch_level_2_split_test"
    with h5py.File(f"{stem}_x.h5") as images, h5py.File(f"{stem}_y.h5") as labels:
        yield from zip(np.asarray(images["x"]), map(int, np.asarray(labels["y"]).reshape(-1)), strict=True)


def _fer(root: Path) -> Iterator[Labelled]:
    with (root / "fer2013.csv").open() as file:
        for row in csv.DictReader(file):
            if row["Usage"] != "Training":
                pixels = np.array(row["pixels"].split(), np.uint8).reshape(48, 48)
                yield pixels, FER_EMOTIONS[int(row["emotion"])]


SYNSETS = ("n00000005", "n00000002", "n00000009", "n00000004")
"""In the order of the devkit's numbers, which is not that of the names."""


def _devkit(folder: Path) -> None:
    """Line N of the ground truth is the ILSVRC2012_ID of validation image N."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    fields += [(name, "O") for name in ("children", "wordnet_height", "num_train_images")]
    synsets = np.zeros(len(SYNSETS) + 1, dtype=fields)
    for row, name in enumerate((*SYNSETS, "n00000001")):
        children = 4 if row == len(SYNSETS) else 0
        synsets[row] = (row + 1, name, f"thing {row}, other name", "a gloss", children, 0, 0, 1)
    (folder / "data").mkdir(parents=True)
    savemat(folder / "data/meta.mat", {"synsets": synsets})
    truth = "".join(f"{row * 3 % len(SYNSETS) + 1}\n" for row in range(IMAGES))
    (folder / "data/ILSVRC2012_validation_ground_truth.txt").write_text(truth)


def _tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            found = tarfile.TarInfo(name)
            found.size = len(content)
            tar.addfile(found, io.BytesIO(content))


def _jpegs(prefix: str) -> dict[str, bytes]:
    found = {}
    for row in range(IMAGES):
        buffer = io.BytesIO()
        drawing(row).save(buffer, "JPEG")
        found[f"{prefix}{row + 1:08d}.JPEG"] = buffer.getvalue()
    return found


def imagenet_archives(root: Path) -> Path:
    """The devkit and the validation images, packed."""
    _devkit(root / "made/ILSVRC2012_devkit_t12")
    (root / "download").mkdir()
    with tarfile.open(root / "download/ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(root / "made/ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    backwards = dict(reversed(_jpegs("ILSVRC2012_val_").items()))
    _tar(root / "download/ILSVRC2012_img_val.tar", backwards)
    return root / "download"


def imagenet_flat(root: Path) -> Path:
    """Both unpacked: the images lie in one folder."""
    _devkit(root / "download/ILSVRC2012_devkit_t12")
    (root / "download/val").mkdir()
    for name, content in _jpegs("ILSVRC2012_val_").items():
        (root / "download/val" / name).write_bytes(content)
    return root / "download"


def imagenet_train(root: Path) -> Path:
    """An archive of archives, one for each class."""
    images = _jpegs("")
    packed = {}
    for number, name in enumerate(SYNSETS):
        own = {f"{name}_{key}": content for row, (key, content) in enumerate(images.items()) if row % 4 == number}
        _tar(root / f"{name}.tar", own)
        packed[f"{name}.tar"] = (root / f"{name}.tar").read_bytes()
        (root / f"{name}.tar").unlink()
    (root / "download").mkdir()
    _tar(root / "download/ILSVRC2012_img_train.tar", packed)
    return root / "download"


def _imagenet(root: Path) -> Iterator[Labelled]:
    order = [sorted(SYNSETS).index(name) for name in SYNSETS]
    flat = root / "val"
    if flat.is_dir():
        files = {path.name: path.read_bytes() for path in flat.iterdir()}
    else:
        with tarfile.open(root / "ILSVRC2012_img_val.tar") as tar:
            files = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    for row, name in enumerate(sorted(files)):
        yield files[name], order[row * 3 % len(SYNSETS)]


def _imagenet_train(root: Path) -> Iterator[Labelled]:
    with tarfile.open(root / "ILSVRC2012_img_train.tar") as outer:
        for each in outer:
            with tarfile.open(fileobj=outer.extractfile(each)) as inner:
                for file in inner:
                    yield inner.extractfile(file).read(), sorted(SYNSETS).index(each.name[:-4])  # type: ignore[union-attr]


def voc2007(root: Path) -> Path:
    folder = root / "VOCdevkit/VOC2007"
    for name in ("Annotations", "ImageSets/Main", "ImageSets/Layout", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    kinds = ("aeroplane", "diningtable", "tvmonitor")
    for row in range(IMAGES):
        save(folder / f"JPEGImages/{row:06d}.jpg", row, 48)
        objects = "".join(
            f"<object><name>{kinds[(row + n) % 3]}</name><difficult>{n}</difficult>"
            f"<bndbox><xmin>{n + 1}</xmin><ymin>2</ymin><xmax>{30 + n}</xmax><ymax>40</ymax></bndbox></object>"
            for n in range(1 + row % 2)
        )
        (folder / f"Annotations/{row:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
    names = [f"{row:06d}" for row in range(IMAGES)]
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names[4:]) + "\n")
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(names[:4]) + "\n")
    for number, kind in enumerate(kinds):  # 1: an object that is not difficult, 0: difficult ones alone, -1: none
        said = {name: 1 if row % 3 == number else -1 for row, name in enumerate(names)}
        said |= {name: 0 for row, name in enumerate(names) if row % 2 and (row + 1) % 3 == number}
        lines = "".join(f"{name} {said[name]:2}\n" for name in names[4:])
        (folder / f"ImageSets/Main/{kind}_test.txt").write_text(lines)
    return root / "VOCdevkit"


def _voc(root: Path) -> Iterator[Labelled]:
    labels = {"aeroplane": 0, "diningtable": 10, "tvmonitor": 19}
    for name in (root / "VOC2007/ImageSets/Main/test.txt").read_text().split():
        image = Image.open(root / f"VOC2007/JPEGImages/{name}.jpg").convert("RGB")
        for each in ElementTree.parse(root / f"VOC2007/Annotations/{name}.xml").iter("object"):
            box = [int(each.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, upper, right, lower = box
            yield np.asarray(image)[upper:lower, left:right], labels[each.findtext("name") or ""]


def _voc_images(root: Path) -> Iterator[tuple[Any, Any]]:
    """By the lists of the development kit, which the importer does not read."""
    labels, truth = {"aeroplane": 0, "diningtable": 10, "tvmonitor": 19}, dict[str, dict[int, int]]()
    for kind, label in labels.items():
        for line in (root / f"VOC2007/ImageSets/Main/{kind}_test.txt").read_text().splitlines():
            name, value = line.split()
            truth.setdefault(name, {})[label] = int(value)
    for name, said in truth.items():
        classes, ignored = ([label for label, value in said.items() if value == wanted] for wanted in (1, 0))
        yield (root / f"VOC2007/JPEGImages/{name}.jpg").read_bytes(), (tuple(classes), tuple(ignored))


def _flickr(name: str, head: list[str], line: Callable[[int, int, str], str]) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        lines = list(head)
        for row in range(IMAGES):
            save(root / "flickr30k_images" / f"{1000 + row}.jpg", row)
            lines += [line(1000 + row, number, text) for number, text in enumerate(two_captions(row))]
        (root / name).write_text("\n".join(lines) + "\n")
        return root / name

    return build


def _captions(path: Path) -> Iterator[Labelled]:
    for row in range(IMAGES):
        yield (path.parent / f"flickr30k_images/{1000 + row}.jpg").read_bytes(), tuple(two_captions(row))


def hugging_face_table(root: Path) -> Path:
    with (root / "flickr_annotations_30k.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for row in range(IMAGES):
            save(root / "flickr30k_images" / f"{1000 + row}.jpg", row)
            table.writerow([json.dumps(two_captions(row)), "[0]", "test", f"{1000 + row}.jpg", row])
    return root / "flickr_annotations_30k.csv"


def coco_captions(root: Path) -> Path:
    made = originals.coco(root)
    (root / "annotations").mkdir()
    made.rename(root / "annotations/captions_val2014.json")
    return root / "annotations/captions_val2014.json"


def _coco(path: Path) -> Iterator[Labelled]:
    for row in range(IMAGES):
        image = path.parent.parent / f"val2014/COCO_val2014_{row:012d}.jpg"
        yield image.read_bytes(), tuple(two_captions(row))


DOWNLOADS: dict[str, Download] = {
    "cifar-10-python": Download(
        "readme on the makers' page; torchvision.datasets.CIFAR10",
        _as_is(originals.cifar10, "cifar-10-batches-py/readme.html"),
        _cifar("cifar-10-batches-py/test_batch", "labels"),
        "CIFAR10",
        {"train": False},
    ),
    "cifar-100-python": Download(
        "the same; torchvision.datasets.CIFAR100",
        _as_is(originals.cifar100),
        _cifar("cifar-100-python/test", "fine_labels"),
        "CIFAR100",
        {"train": False},
    ),
    "mnist": Download(
        "the makers' page describes the IDX files and their .gz; torchvision.datasets.MNIST unpacks them",
        idx_packed,
        _idx,
    ),
    "mnist, unpacked": Download(
        "torchvision.datasets.MNIST: ROOT/MNIST/raw",
        _as_is(originals.mnist),
        _idx,
        "MNIST",
        {"train": False},
    ),
    "fashion-mnist": Download(
        "readme of the makers' repository: data/fashion",
        idx_of_repository,
        _idx,
        options=("--format", "fashion-mnist"),
    ),
    "kmnist, unpacked": Download(
        "torchvision.datasets.KMNIST: ROOT/KMNIST/raw",
        _as_is(originals.kmnist),
        _idx,
        "KMNIST",
        {"train": False},
    ),
    "stl10_binary": Download(
        "torchvision.datasets.STL10",
        _as_is(originals.stl10, "stl10_binary/fold_indices.txt"),
        _stl10,
        "STL10",
        {"split": "test"},
    ),
    "svhn": Download(
        "torchvision.datasets.SVHN: cropped digits", _as_is(originals.svhn), _svhn, "SVHN", {"split": "test"}
    ),
    "usps": Download(
        "torchvision.datasets.USPS: LIBSVM's files", _as_is(originals.usps), _usps, "USPS", {"train": False}
    ),
    "gtsrb": Download(
        "readme of GTSRB_Final_Test_GT; torchvision.datasets.GTSRB",
        _renamed(originals.gtsrb, "gtsrb", "GTSRB/Readme-Images-Final-test.txt"),
        _gtsrb,
        "GTSRB",
        {"split": "test"},
        part="gtsrb",
    ),
    "food-101": Download(
        "README.txt of the archive; torchvision.datasets.Food101",
        _as_is(originals.food101, "food-101/README.txt", "food-101/meta/classes.txt"),
        _food,
        "Food101",
        {"split": "test"},
    ),
    "dtd-r1": Download(
        "README of the archive; torchvision.datasets.DTD, which puts it into a folder dtd",
        _renamed(originals.dtd, "dtd", "dtd/imdb/imdb.mat"),
        _dtd,
        "DTD",
        {"split": "test"},
        part="dtd",
    ),
    "pets": Download(
        "README of annotations.tar.gz; torchvision.datasets.OxfordIIITPet",
        _renamed(originals.pets, "oxford-iiit-pet", "annotations/list.txt", "annotations/xmls/a.xml"),
        _pets,
        "OxfordIIITPet",
        {"split": "test"},
        part="oxford-iiit-pet",
    ),
    "102flowers": Download(
        "README.txt on the makers' page; torchvision.datasets.Flowers102",
        _renamed(originals.flowers, "flowers-102"),
        _flowers,
        "Flowers102",
        {"split": "test"},
        part="flowers-102",
    ),
    "stanford_cars": Download(
        "torchvision.datasets.StanfordCars",
        _renamed(originals.cars, "stanford_cars", "devkit/README.txt"),
        _cars,
        "StanfordCars",
        {"split": "test"},
        part="stanford_cars",
    ),
    "fgvc-aircraft-2013b": Download(
        "README.md of the archive; torchvision.datasets.FGVCAircraft",
        _as_is(originals.fgvc_aircraft, "fgvc-aircraft-2013b/data/families.txt"),
        _aircraft,
        "FGVCAircraft",
        {"split": "test"},
    ),
    "SUN397": Download(
        "README.txt of the archive; torchvision.datasets.SUN397",
        _as_is(originals.sun397, "SUN397/README.txt"),
        _sun,
        "SUN397",
    ),
    "EuroSAT": Download(
        "torchvision.datasets.EuroSAT: the archive unpacks to 2750",
        _renamed(originals.eurosat, "eurosat"),
        lambda root: _folders(root / "2750"),
        "EuroSAT",
        part="eurosat",
    ),
    "country211": Download(
        "torchvision.datasets.Country211",
        _as_is(originals.country211),
        lambda root: _folders(root / "country211/test"),
        "Country211",
        {"split": "test"},
    ),
    "rendered-sst2": Download(
        "torchvision.datasets.RenderedSST2",
        _as_is(originals.renderedsst2),
        lambda root: _folders(root / "rendered-sst2/test"),
        "RenderedSST2",
        {"split": "test"},
    ),
    "pcam": Download(
        "README of the makers' repository; torchvision.datasets.PCAM",
        _renamed(originals.pcam, "pcam"),
        _pcam,
        "PCAM",
        {"split": "test"},
        part="pcam",
    ),
    "caltech-101": Download(
        "torchvision.datasets.Caltech101: the archive has 101_ObjectCategories and Annotations",
        _renamed(originals.caltech101, "caltech101", "Annotations/show_annotation.m"),
        lambda root: _folders(root / "101_ObjectCategories", "BACKGROUND_Google"),
        "Caltech101",
        part="caltech101",
    ),
    "fer2013": Download(
        "torchvision.datasets.FER2013",
        _renamed(originals.fer2013, "fer2013", "README"),
        _fer,
        "FER2013",
        {"split": "test"},
        part="fer2013",
        numbers=(0, 1, 2, 3, 5, 6, 4),
    ),
    "ImageNet, archives": Download(
        "readme.txt of the devkit; torchvision.datasets.ImageNet, which unpacks them into its root",
        imagenet_archives,
        _imagenet,
        "ImageNet",
        {"split": "val"},
    ),
    "ImageNet, devkit and flat val": Download("readme.txt of the devkit", imagenet_flat, _imagenet),
    "ImageNet, archive of archives": Download(
        "torchvision.datasets.ImageNet",
        imagenet_train,
        _imagenet_train,
        options=("--split", "train"),
    ),
    "VOC2007": Download(
        "the development kit's documentation; torchvision.datasets.VOCDetection reads the annotations",
        voc2007,
        _voc,
    ),
    "VOC2007, whole images": Download(
        "the development kit's documentation: 0 in the lists of a class stands for difficult objects alone",
        voc2007,
        _voc_images,
        options=("--format", "pascal-voc-images"),
    ),
    "Flickr30k, original": Download(
        "readme.txt of the captions; torchvision.datasets.Flickr30k",
        _flickr("results_20130124.token", [], lambda image, number, text: f"{image}.jpg#{number}\t{text}"),
        _captions,
        "Flickr30k",
    ),
    "Flickr30k, Kaggle": Download(
        "its page on Kaggle: results.csv",
        _flickr(
            "results.csv",
            ["image_name| comment_number| comment"],
            lambda image, number, text: f"{image}.jpg| {number}{' ' if image == 1007 else '|'} {text}",
        ),
        _captions,
    ),
    "Flickr30k, Hugging Face": Download("its data set card: flickr_annotations_30k.csv", hugging_face_table, _captions),
    "COCO 2014": Download(
        "the format's description on the makers' page",
        coco_captions,
        _coco,
        options=("--images", "{root}/val2014"),
    ),
}
"""Name of the download -> how it is written and read."""
