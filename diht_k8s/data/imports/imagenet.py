"""ImageNet's 2012 set as it is downloaded: devkit and archives, or what was unpacked from them. Nothing is unpacked.

ROOT has one of val/CLASS/*.JPEG, a flat val/*.JPEG with the devkit, and ILSVRC2012_img_val.tar with the devkit; for the split
`train` train/CLASS/*.JPEG, or ILSVRC2012_img_train.tar, which holds an archive for each class. The devkit's
`ILSVRC2012_validation_ground_truth.txt` has the ILSVRC2012_ID of validation image N in line N, and `meta.mat` its WordNet id;
classes are the sorted WordNet ids of the synsets without children, as in torchvision.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.image_folder import read_image_folder
from diht_k8s.data.imports.matlab_files import read_mat
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    file_stats,
    fingerprint,
    images_digest,
    reader_of,
)
from diht_k8s.data.imports.source_files import MAX_FILE_BYTES, SourceFile, require_inside
from diht_k8s.data.imports.tally import Tally, by_suffix

IMAGENET: Final = "imagenet1k"
DEVKIT: Final = "ILSVRC2012_devkit_t12"
VAL_ARCHIVE: Final = "ILSVRC2012_img_val.tar"
TRAIN_ARCHIVE: Final = "ILSVRC2012_img_train.tar"
MARKERS: Final = (DEVKIT, f"{DEVKIT}.tar.gz", VAL_ARCHIVE, TRAIN_ARCHIVE, "meta.bin")
"""Files and folders that only ImageNet has; the last one is torchvision's extract of the devkit."""
SPLITS: Final = {"train": "train", "val": "val", "test": "val"}
"""Split -> its folder: the labels of the test set were not published, so the validation set is the test set."""
_VAL_NAME: Final = re.compile(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG")
_SYNSET_ARCHIVE: Final = re.compile(r"(?:.*/)?(n\d{8})\.tar")
_NO_NUMBER: Final = "no_validation_image"
"""Why an entry is ignored: its name has no number of the ground truth."""


@dataclass(frozen=True)
class Devkit:
    """What the devkit says of the classes."""

    wnids: Sequence[str]
    """sorted; the place is the class."""
    names: Sequence[str]
    """first word of each."""
    truth: Sequence[int]
    """class of each validation image."""


@dataclass(frozen=True)
class _Member:
    """Content of a file in an archive."""

    name: str
    offset: int
    size: int


def is_imagenet_root(folder: Path) -> bool:
    """Whether a folder holds ImageNet's devkit or archives, or validation images that are not sorted by class."""
    return any((folder / name).exists() for name in MARKERS) or _is_flat(folder / "val")


def read_imagenet(root: Path, options: ReaderOptions) -> RecordSource:
    """A split of ImageNet.

    Raises:
        UserError: there is no such split, or the devkit or the images are missing.
        DataError: a file is damaged.
    """
    if options.split not in SPLITS:
        raise UserError(f"{IMAGENET} has no split {options.split}: choose one by --split ({', '.join(SPLITS)})")
    split = SPLITS[options.split]
    folder, archive = root / split, root / (TRAIN_ARCHIVE if split == "train" else VAL_ARCHIVE)
    if folder.is_dir() and not _is_flat(folder):
        return replace(read_image_folder(root, replace(options, split=split)), kind=IMAGENET)
    if not folder.is_dir():
        if not archive.is_file():
            raise UserError(f"{root} holds neither a folder {split} nor {archive.name}: fetch the images of ImageNet")
        require_inside(archive, options.roots(root))
    if split == "train":
        return _from_train_archive(archive)
    return _from_flat(root, folder, options) if folder.is_dir() else _from_val_archive(root, archive, options)


def _is_flat(folder: Path) -> bool:
    return folder.is_dir() and any(_VAL_NAME.fullmatch(path.name) for path in folder.iterdir())


def _from_flat(root: Path, folder: Path, options: ReaderOptions) -> RecordSource:
    devkit, roots, ignored = read_devkit(root, options), options.roots(root), Tally()
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    records: list[ImageRecord] = []
    for path in paths:
        if (label := _label_of(path.name, devkit)) is None:
            ignored.merge(by_suffix([path]))
        else:
            records.append(ImageRecord(str(path), SourceFile(path, roots), label))
    stats = [[[Path(record.place).name, record.label] for record in records], images_digest(records)]
    return _source(len(records), reader_of(records), devkit, stats, SeenUnits("files", len(paths), ignored=ignored))


def _from_val_archive(root: Path, archive: Path, options: ReaderOptions) -> RecordSource:
    devkit, ignored, members = read_devkit(root, options), Tally(), list[tuple[_Member, int]]()
    with archive.open("rb") as file:
        found = _members(file, archive)
    for member in sorted(found, key=lambda each: each.name):
        if (label := _label_of(member.name, devkit)) is None:
            ignored.add(_NO_NUMBER, f"{archive} {member.name}")
        else:
            members.append((member, label))
    seen = SeenUnits("entries", len(found), ignored=ignored)
    return _source(len(members), _archive_reader(archive, members), devkit, file_stats([archive]), seen)


def _from_train_archive(archive: Path) -> RecordSource:
    found, ignored, seen = dict[str, list[_Member]](), Tally(), 0
    with archive.open("rb") as file:
        for outer in _members(file, archive):
            if (named := _SYNSET_ARCHIVE.fullmatch(outer.name)) is None:
                seen += 1
                ignored.add("no_archive_of_a_class", f"{archive} {outer.name}")
                continue
            inner = _members(file, archive, outer)
            found.setdefault(named[1], []).extend(inner)
            seen += len(inner)
    wnids = sorted(found)
    members = [(each, label) for label, wnid in enumerate(wnids) for each in sorted(found[wnid], key=lambda m: m.name)]
    devkit = Devkit(wnids, wnids, ())
    units = SeenUnits("entries", seen, ignored=ignored)
    return _source(len(members), _archive_reader(archive, members), devkit, file_stats([archive]), units)


def _source(
    total: int,
    read: Callable[[int, int], Iterator[ImageRecord]],
    devkit: Devkit,
    stats: Sequence[object],
    seen: SeenUnits,
) -> RecordSource:
    if not total:
        raise DataError(f"{IMAGENET}: no entry of {seen.count} is an image with a class: fetch the archive again")
    return RecordSource(
        kind=IMAGENET,
        type="Classification",
        total=total,
        read=read,
        fingerprint=fingerprint([IMAGENET, total, stats, devkit.wnids, devkit.truth]),
        class_names=tuple(devkit.names),
        texts=IMAGENET if len(devkit.names) == 1000 else None,
        notes=(f"{total:,} of the {len(devkit.truth):,} validation images are here",)
        if total < len(devkit.truth)
        else (),
        seen=seen,
    )


def _label_of(name: str, devkit: Devkit) -> int | None:
    found = _VAL_NAME.fullmatch(name)
    number = int(found[1]) if found else 0
    return devkit.truth[number - 1] if 1 <= number <= len(devkit.truth) else None


def _archive_reader(
    archive: Path, members: Sequence[tuple[_Member, int]]
) -> Callable[[int, int], Iterator[ImageRecord]]:
    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        with archive.open("rb") as file:
            for member, label in members[start:stop]:
                file.seek(member.offset)
                yield ImageRecord(f"{archive} {member.name}", file.read(min(member.size, MAX_FILE_BYTES)), label)

    return read


def _members(file: BinaryIO, archive: Path, within: _Member | None = None) -> list[_Member]:
    """The files of an archive, or of an archive in it, by their headers.

    Raises:
        DataError: it is no whole archive.
    """
    end = within.offset + within.size if within else archive.stat().st_size
    try:
        file.seek(within.offset if within else 0)  # tarfile begins there
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found = [_Member(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
            file.seek(tar.offset)  # a header that is cut ends the list as zeros do
            whole = tar.offset + tarfile.BLOCKSIZE <= end and not any(file.read(tarfile.BLOCKSIZE))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}): fetch it again") from error
    if not whole:
        raise DataError(f"{archive} is cut{f' in {within.name}' if within else ''}: fetch it again")
    return found


def read_devkit(root: Path, options: ReaderOptions) -> Devkit:
    """The devkit of a folder, packed or not.

    Raises:
        UserError: it is missing, or scipy is.
        DataError: it is damaged.
    """
    files = _devkit_files(root, options)
    try:
        found = read_mat(files["meta.mat"])["synsets"]
        synsets = found if isinstance(found, list) else [found]
        leaves = [each for each in synsets if int(each["num_children"]) == 0]
        wnid_of = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in leaves}
        words = {str(each["WNID"]): str(each["words"]).split(", ")[0] for each in leaves}
        wnids = sorted(words)
        label_of = {number: wnids.index(wnid) for number, wnid in wnid_of.items()}
        truth = [label_of[int(line)] for line in files["ILSVRC2012_validation_ground_truth.txt"].split()]
    except ModuleNotFoundError as error:
        raise UserError(f"{IMAGENET} needs the package {error.name}: pip install {error.name}") from error
    except Exception as error:  # fields that are missing or of another type
        raise DataError(
            f"{root}: the devkit of ImageNet cannot be read ({error}): fetch {DEVKIT}.tar.gz again"
        ) from error
    return Devkit(wnids, [words[wnid] for wnid in wnids], truth)


def _devkit_files(root: Path, options: ReaderOptions) -> Mapping[str, bytes]:
    names = ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
    archive, roots = root / f"{DEVKIT}.tar.gz", options.roots(root)
    try:
        if (root / DEVKIT).is_dir():
            return {name: roots.read(root / DEVKIT / "data" / name) for name in names}
        if archive.is_file():
            require_inside(archive, roots)
            with tarfile.open(archive) as tar:
                return {name: _content(tar, f"{DEVKIT}/data/{name}") for name in names}
    except Exception as error:  # a missing or damaged file, in an archive or not
        if isinstance(error, UserError):
            raise
        raise DataError(f"{archive} cannot be read ({error}): fetch the devkit of ImageNet again") from error
    raise UserError(
        f"{root} has validation images, but not what says their classes: put {archive.name} beside them, or sort them into a "
        "folder for each class"
    )


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read(MAX_FILE_BYTES)
