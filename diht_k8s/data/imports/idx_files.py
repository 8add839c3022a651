"""MNIST, Fashion-MNIST and KMNIST: IDX files of pixels and labels, packed (.gz) as they are downloaded, or unpacked.

The three have the same names of files, so the folder's name tells them apart, or the user. Format: the magic number 0, 0, 8
(unsigned bytes), the number of dimensions, each size in 4 bytes, then the values.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.records import ImageRecord, ReaderOptions, RecordSource, file_stats, fingerprint
from diht_k8s.data.imports.source_files import SourceFileError, SourceRoots


@dataclass(frozen=True)
class IdxSet:
    """What is not in the files."""

    folder: str
    """that torchvision gives it."""
    names: tuple[str, ...]
    texts: str | None = None
    """clip-benchmark's name of its texts."""


IDX_SETS: Final[Mapping[str, IdxSet]] = {
    "mnist": IdxSet("MNIST", tuple(map(str, range(10))), "mnist"),
    "fashion-mnist": IdxSet(
        "FashionMNIST",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": IdxSet("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
}
"""Name of the layout -> its classes."""
SPLITS: Final = {"train": "train", "test": "t10k"}
"""Split -> how the names of its files begin."""
_FORMS: Final = ("{stem}-{what}-idx{rank}-ubyte", "{stem}-{what}.idx{rank}-ubyte")
"""Names of the originals, and those that some programs unpack them to."""
_MAX_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class IdxFolder:
    """Where the files lie, and which set they are."""

    folder: Path
    kind: str | None
    """None where no name says it."""
    own: bool = False
    """whether the user names the folder itself: then the user may say what it is."""


def find_idx(root: Path) -> list[IdxFolder]:
    """The folders of IDX files: the root or ROOT/raw, and ROOT/NAME or ROOT/NAME/raw by torchvision's names."""
    named = root.resolve().parent if root.name == "raw" else root
    places = [IdxFolder(place, _kind_of(named), own=True) for place in (root, root / "raw")]
    places += [IdxFolder(root / each.folder / raw, kind) for kind, each in IDX_SETS.items() for raw in ("raw", ".")]
    return [each for each in places if any(_file(each.folder, stem, "labels", 1) for stem in SPLITS.values())]


def read_idx(kind: str | None, found: Sequence[IdxFolder], folder: Path, options: ReaderOptions) -> RecordSource:
    """A split of one of `IDX_SETS`.

    Args:
        kind: what the user says; None takes what the folder's name says.
        found: where the files lie.
        folder: what the user names.
        options: the split.

    Raises:
        UserError: nothing says which set it is, there is no such split, or its files are missing.
        DataError: a file is damaged, or images and labels do not fit.
    """
    kinds = list(dict.fromkeys(each.kind for each in found))
    if kind is None and len(kinds) > 1:
        raise UserError(f"{folder} holds several data sets ({', '.join(map(str, kinds))}): say which one by --format")
    fitting = [each for each in found if kind in (None, each.kind)] or [each for each in found if each.own]
    if not fitting:
        raise UserError(f"{folder} holds no IDX files, as {kind} has: name the folder with t10k-labels-idx1-ubyte(.gz)")
    place, known = fitting[0].folder, kind or fitting[0].kind
    if known is None:
        raise UserError(
            f"{place} holds IDX files, whose names MNIST, Fashion-MNIST and KMNIST share: say which it is by --format "
            f"({', '.join(IDX_SETS)})"
        )
    if options.split not in SPLITS:
        raise UserError(f"{known} has no split {options.split}: choose one by --split ({', '.join(SPLITS)})")
    stem = SPLITS[options.split]
    files = [_file(place, stem, what, rank) for what, rank in (("images", 3), ("labels", 1))]
    if None in files:
        raise UserError(f"{place} lacks the images or the labels of {known}, split {options.split}: fetch both files")
    paths = [path for path in files if path is not None]
    pixels_NHW, labels_N = (
        _values(path, rank, options.roots(folder)) for path, rank in zip(paths, (3, 1), strict=True)
    )
    if len(pixels_NHW) != len(labels_N):
        raise DataError(
            f"{paths[0]} has {len(pixels_NHW)} images, and {paths[1].name} {len(labels_N)} labels: fetch both again"
        )
    names = IDX_SETS[known].names
    if len(labels_N) and labels_N.max() >= len(names):
        raise DataError(
            f"{paths[1]} has the label {labels_N.max()}, but {known} has {len(names)} classes: fetch it again"
        )

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for row in range(start, min(stop, len(labels_N))):
            yield ImageRecord(
                f"{paths[0]} image {row}", lambda row=row: Image.fromarray(pixels_NHW[row]), int(labels_N[row])
            )

    return RecordSource(
        kind=known,
        type="Classification",
        total=len(labels_N),
        read=read,
        fingerprint=fingerprint([known, options.split, len(labels_N), file_stats(paths)]),
        class_names=names,
        texts=IDX_SETS[known].texts,
    )


def _kind_of(folder: Path) -> str | None:
    """The set that a folder's name says: MNIST, fashion_mnist, FashionMNIST."""
    plain = folder.name.lower().replace("-", "").replace("_", "")
    return next((kind for kind in IDX_SETS if kind.replace("-", "") == plain), None)


def _file(folder: Path, stem: str, what: str, rank: int) -> Path | None:
    names = (form.format(stem=stem, what=what, rank=rank) + packed for form in _FORMS for packed in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _values(path: Path, rank: int, roots: SourceRoots) -> np.ndarray:
    """The values of a file, of as many dimensions as its name says."""
    damaged = f"{path} is no whole IDX file of {rank} dimensions"
    try:
        data = roots.read(path)
        if path.suffix == ".gz":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES)
    except SourceFileError as error:
        raise DataError(f"{path} cannot be read ({error.reason}): fetch it again") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{damaged} ({error}): fetch it again") from error
    head = 4 + 4 * rank
    if data[:4] != bytes([0, 0, 8, rank]) or len(data) < head:
        raise DataError(f"{damaged}: fetch it again")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, head, 4)]
    if 0 in shape or len(data) != head + math.prod(shape):  # a product of 64 bits would overflow to what fits
        raise DataError(f"{damaged} (its sizes are {shape}): fetch it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
