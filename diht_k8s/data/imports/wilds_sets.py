"""Sets of WILDS as its package unpacks them: iWildCam, Camelyon17 and FMoW, in their official splits."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.annotation_files import read_csv
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    file_stats,
)
from diht_k8s.data.imports.source_files import SourceFile, SourceRoots

CAMELYON: Final = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")
IWILDCAM: Final = ("split", "filename", "y", "location_remapped")
FMOW: Final = ("split", "category", "country_code", "timestamp")
OTHER_REGION: Final = "Other"
"""FMoW's worst region leaves it out, so its images get no group."""


def find_wilds(folder: Path) -> str | None:
    """The name of the set that a folder holds; None if it is none of WILDS."""
    if (folder / "rgb_metadata.csv").is_file():
        return "wilds-fmow"
    if not (folder / "metadata.csv").is_file():
        return None
    with (folder / "metadata.csv").open(newline="") as file:
        header = next(csv.reader(file), [])
    return next(
        (
            name
            for name, columns in (("wilds-camelyon17", CAMELYON), ("wilds-iwildcam", IWILDCAM))
            if {*columns} <= {*header}
        ),
        None,
    )


def read_wilds(kind: str, folder: Path, options: ReaderOptions) -> RecordSource:
    """One split of a set.

    Raises:
        UserError: there is no such split.
        DataError: the metadata lack a column or name an unknown class.
    """
    read = {"wilds-camelyon17": _camelyon, "wilds-iwildcam": _iwildcam, "wilds-fmow": _fmow}[kind]
    by_split, names, texts = read(folder, options.roots(folder))
    if options.split not in by_split:
        raise UserError(f"{folder} has no split {options.split}: choose one by --split ({', '.join(sorted(by_split))})")
    records = by_split[options.split]
    metadata = folder / ("rgb_metadata.csv" if kind == "wilds-fmow" else "metadata.csv")
    said = [options.split, file_stats([metadata])]
    return RecordSource.listed(kind, "Classification", records, said, class_names=tuple(names), texts=texts)


_Read = tuple[dict[str, list[ImageRecord]], list[str], str]
"""Split -> records, class names, the name of the texts."""


def _camelyon(folder: Path, roots: SourceRoots) -> _Read:
    """Hospital 2 is the test set and hospital 1 the validation set outside of the training's distribution."""
    by_split: dict[str, list[ImageRecord]] = {}
    for row in read_csv(folder / "metadata.csv", CAMELYON):
        split = {"1": "val", "2": "test"}.get(row["center"], "id_val" if row["split"] == "1" else "train")
        slide = f"patient_{row['patient'].zfill(3)}_node_{row['node']}"
        path = folder / "patches" / slide / f"patch_{slide}_x_{row['x_coord']}_y_{row['y_coord']}.png"
        by_split.setdefault(split, []).append(ImageRecord(str(path), SourceFile(path, roots), label=int(row["tumor"])))
    return by_split, ["lymph node", "lymph node containing metastatic tumor tissue"], "pcam"


def _iwildcam(folder: Path, roots: SourceRoots) -> _Read:
    by_split: dict[str, list[ImageRecord]] = {}
    rows = read_csv(folder / "metadata.csv", IWILDCAM)
    for row in rows:
        path = folder / "train" / row["filename"]
        by_split.setdefault(row["split"], []).append(
            ImageRecord(str(path), SourceFile(path, roots), label=int(row["y"]))
        )
    names = {int(row["y"]): row["name"] for row in read_csv(folder / "categories.csv", ("y", "name")) if row["y"]}
    return (
        by_split,
        [names.get(label, str(label)) for label in range(1 + max(int(row["y"]) for row in rows))],
        "iwildcam",
    )


def _fmow(folder: Path, roots: SourceRoots) -> _Read:
    """Images from 2016 on are the test set, those of 2013 to 2015 the validation set outside of the distribution."""
    countries = read_csv(folder / "country_code_mapping.csv", ("alpha-3", "region"))
    region_of = {row["alpha-3"]: row["region"] for row in countries if row["region"]}
    rows = read_csv(folder / "rgb_metadata.csv", FMOW)
    names = sorted({row["category"] for row in rows})
    label_of = {name: label for label, name in enumerate(names)}
    by_split: dict[str, list[ImageRecord]] = {}
    for number, row in enumerate(rows):
        split = _fmow_split(row["split"], _year(row["timestamp"], folder))
        if split is None:
            continue
        region = region_of.get(row["country_code"], OTHER_REGION)
        path = folder / "images" / f"rgb_img_{number}.png"
        group = {} if region == OTHER_REGION else {"group": region}
        by_split.setdefault(split, []).append(
            ImageRecord(str(path), SourceFile(path, roots), label=label_of[row["category"]], meta=group)
        )
    return by_split, [name.replace("_", " ") for name in names], "fmow"


def _fmow_split(split: str, year: int) -> str | None:
    """The official split of an image; None if it belongs to none."""
    period = "test" if year >= 2016 else "ood_val" if year >= 2013 else "in"
    return {
        ("test", "test"): "test",
        ("val", "ood_val"): "ood_val",
        ("test", "in"): "id_test",
        ("val", "in"): "val",
        ("train", "in"): "train",
    }.get((split, period))


def _year(timestamp: str, folder: Path) -> int:
    try:
        return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).year
    except ValueError as error:
        raise DataError(f"{folder}/rgb_metadata.csv: {timestamp!r} is no time: fetch the file again") from error
