"""Small originals of every layout that can be imported, drawn and written as their makers write them."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from tests.recipe.evaluate.small_run import COLOURS, SHAPES, draw

IMAGES = 24
LABELLED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [f"{c}_toy" for c in COLOURS]}}


@cache
def drawing(row: int, side: int = 48, *, mode: str = "RGB") -> Image.Image:
    """No two are the same; the colour goes round."""
    drawn = Image.open(io.BytesIO(draw(COLOURS[row % 6], SHAPES[row // 6 % 3], 5000 + row)))
    return drawn.resize((side, side)).convert(mode)


def save(path: Path, row: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(row).save(path)


def png(row: int) -> bytes:
    buffer = io.BytesIO()
    drawing(row).save(buffer, "PNG")
    return buffer.getvalue()


def cells(rows: Iterable[int]) -> list[dict[str, Any]]:
    """Images as `datasets` stores them."""
    return [{"bytes": png(row), "path": None} for row in rows]


def two_captions(row: int) -> list[str]:
    """One or two, none twice: tools differ in what they do with ties."""
    return [f"a {COLOURS[row % 6]} thing, number {row}", f"one of many: {SHAPES[row // 6 % 3]} at {row}"][: 1 + row % 2]


def trust_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn files do not have the checksums of the originals, and PCAM's are no HDF5."""
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_, **__: True)
    h5py = types.ModuleType("h5py")
    monkeypatch.setattr(h5py, "File", np.load, raising=False)
    monkeypatch.setitem(sys.modules, "h5py", h5py)


def image_folder(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "test" / f"{COLOURS[row % 6]}_thing" / f"{row:03d}.{('png', 'jpg', 'bmp')[row % 3]}", row)
    return root


def cifar10(root: Path) -> Path:
    """The labels at hand, the images in one array."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = [np.asarray(drawing(row, 32)).transpose(2, 0, 1).reshape(-1) for row in range(IMAGES)]
    batch = {"data": np.stack(rows), "labels": [row % 10 for row in range(IMAGES)]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind_{n}" for n in range(10)]}))
    return root


def mnist(root: Path) -> Path:
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    pixels = np.stack([np.asarray(drawing(row, 28, mode="L")) for row in range(IMAGES)])
    for name, values in (("images-idx3", pixels), ("labels-idx1", np.arange(IMAGES) % 10)):
        head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
        for stem in ("t10k", "train"):
            (folder / f"{stem}-{name}-ubyte").write_bytes(head + values.astype(np.uint8).tobytes())
    return root


def svhn(root: Path) -> Path:
    root.mkdir(parents=True)
    pixels = np.stack([np.asarray(drawing(row, 32)) for row in range(IMAGES)], axis=-1)
    labels = np.arange(IMAGES) % 10
    savemat(root / "test_32x32.mat", {"X": pixels, "y": np.where(labels == 0, 10, labels)[:, None]})
    return root


def pcam(root: Path) -> Path:
    """The labels are in the file, too."""
    (root / "pcam").mkdir(parents=True)
    images = np.stack([np.asarray(drawing(row, 96)) for row in range(IMAGES)])
    labels = (np.arange(IMAGES, dtype=np.uint8) % 2).reshape(-1, 1, 1, 1)
    for name, values in (("x", images), ("y", labels)):
        with (root / f"pcam/camelyonpatch_level_2_split_test_{name}.h5").open("wb") as file:
            np.savez(file, **{name: values})
    return root


def gtsrb(root: Path) -> Path:
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row in range(IMAGES):
        save(root / "gtsrb/GTSRB/Final_Test/Images" / f"{row:05d}.ppm", row)
        lines.append(f"{row:05d}.ppm;48;48;0;0;47;47;{row % 43}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines))
    return root


def food101(root: Path) -> Path:
    listed: dict[str, list[str]] = {}
    for row in range(IMAGES):
        name = f"{COLOURS[row % 6]}_pie"
        listed.setdefault(name, []).append(f"{name}/{row}")
        save(root / "food-101/images" / name / f"{row}.jpg", row)
    (root / "food-101/meta").mkdir()
    for split in ("train", "test"):
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))
    return root


def pets(root: Path) -> Path:
    lines = []
    for row in range(IMAGES):
        save(root / "oxford-iiit-pet/images" / f"{COLOURS[row % 6]}_cat_{row}.jpg", row)
        lines.append(f"{COLOURS[row % 6]}_cat_{row} {row % 6 + 1} 1 1")
    (root / "oxford-iiit-pet/annotations/trimaps").mkdir(parents=True)
    (root / "oxford-iiit-pet/annotations/test.txt").write_text("\n".join(lines))
    return root


def eurosat(root: Path) -> Path:
    for row in range(IMAGES):
        save(root / "eurosat/2750" / f"{COLOURS[row % 6]}Crop" / f"{row}.jpg", row)
    return root


def caltech101(root: Path) -> Path:
    folder = root / "caltech101/101_ObjectCategories"
    save(folder / "BACKGROUND_Google/image_0001.jpg", 0)
    for row in range(IMAGES):
        save(folder / f"{COLOURS[row % 6]}_toy" / f"image_{row // 6 + 1:04d}.jpg", row)
    return root


def imagenet1k(root: Path) -> Path:
    """The validation split as torchvision has sorted it, and what it keeps of the devkit."""
    names = {f"n{row:08d}": (f"thing {row}", f"other name {row}") for row in range(IMAGES)}
    for row, name in enumerate(names):
        save(root / "val" / name / f"ILSVRC2012_val_{row:08d}.JPEG", row)
    torch.save((names, list(names)), root / "meta.bin")
    return root


def voc2007(root: Path) -> Path:
    folder, kinds = root / "VOCdevkit/VOC2007", ("aeroplane", "diningtable", "tvmonitor")
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for row in range(IMAGES):
        save(folder / f"JPEGImages/{row:06d}.jpg", row)
        objects = "".join(
            f"<object><name>{kinds[(row + n) % 3]}</name><difficult>{n}</difficult></object>"
            for n in range(1 + row % 2)
        )
        (folder / f"Annotations/{row:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
    names = [f"{row:06d}" for row in range(IMAGES)]
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names[4:]) + "\n")
    for number, kind in enumerate(kinds):  # 1: an object that is not difficult, 0: difficult ones alone, -1: none
        said = {name: 1 if row % 3 == number else -1 for row, name in enumerate(names)}
        said |= {name: 0 for row, name in enumerate(names) if row % 2 and (row + 1) % 3 == number}
        lines = "".join(f"{name} {said[name]:2}\n" for name in names[4:])
        (folder / f"ImageSets/Main/{kind}_test.txt").write_text(lines)
    return root


def coco(root: Path) -> Path:
    images, annotations = [], []
    for row in range(IMAGES):
        name = f"COCO_val2014_{row:012d}.jpg"
        save(root / "val2014" / name, row)
        images.append({"id": row, "file_name": name})
        annotations += [{"image_id": row, "caption": text} for text in two_captions(row)]
    path = root / "coco_test_karpathy.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def karpathy(root: Path) -> Path:
    images = []
    for row in range(IMAGES):
        save(root / "flickr30k-images" / f"{row}.jpg", row)
        sentences = [{"raw": text} for text in two_captions(row)]
        images.append({"filename": f"{row}.jpg", "split": ("test", "train")[row % 4 == 3], "sentences": sentences})
    (root / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    return root / "dataset_flickr30k.json"


def _lines(name: str, header: str, line: Callable[[int, int, str], str]) -> Callable[[Path], Path]:
    """Captions of Flickr30k, by (image, number, text)."""

    def write(root: Path) -> Path:
        for row in range(IMAGES):
            save(root / f"{row}.jpg", row)
        said = [line(row, n, text) for row in range(IMAGES) for n, text in enumerate(two_captions(row))]
        (root / name).write_text("\n".join([header, *said] if header else said) + "\n")
        return root / name

    return write


flickr = _lines("flickr30k_test_karpathy.txt", "image,caption", lambda row, _, text: f"{row}.jpg,{text}")
flickr_tokens = _lines("results_20130124.token", "", lambda row, n, text: f"{row}.jpg#{n}\t{text}")
kaggle = _lines(
    "results.csv",
    "image_name| comment_number| comment",
    lambda row, n, text: f"{row}.jpg| {n}{' ' if row == 7 else '|'} {text}",
)


def with_features(table: pa.Table, features: Mapping[str, Any]) -> pa.Table:
    """A table with what `datasets` says of its columns."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def few_rows(features: dict[str, Any]) -> pa.Table:
    """Three images; each other column numbers them."""
    numbers = {name: list(range(3)) for name in features if name != "image"}
    return with_features(pa.table({"image": cells(range(3)), **numbers}), features)


def split_files(root: Path, files: Mapping[str, Sequence[Any]], features: Mapping[str, Any] = LABELLED) -> Path:
    """A repository of Parquet files: the path of each and its labels, with another drawing in each row of a file."""
    for path, labels in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": cells(range(len(labels))), "label": labels})
        pq.write_table(with_features(table, features), root / path)
    return root


def parquet_of(root: Path, columns: Mapping[str, Any], rows: int = 4) -> Path:
    """A test split of one file."""
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), root / "test.parquet", row_group_size=rows)
    return root


def _labelled(rows: range) -> pa.Table:
    return with_features(pa.table({"image": cells(rows), "label": [row % 6 for row in rows]}), LABELLED)


def parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    pq.write_table(_labelled(range(15)), root / "data/test-00000-of-00002.parquet", row_group_size=4)
    pq.write_table(_labelled(range(15, IMAGES)), root / "data/test-00001-of-00002.parquet", row_group_size=4)
    pq.write_table(_labelled(range(3)), root / "data/train-00000-of-00001.parquet")
    return root


def arrow(root: Path) -> Path:
    (root / "test").mkdir(parents=True)
    table = _labelled(range(IMAGES))
    with (
        pa.OSFile(f"{root}/test/data-00000-of-00001.arrow", "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=5)
    (root / "dataset_dict.json").write_text('{"splits": ["test"]}')
    return root


def yes_or_no(root: Path) -> Path:
    """Two classes as truth values."""
    return parquet_of(root, {"image": cells(range(IMAGES)), "label": [row % 2 == 1 for row in range(IMAGES)]})


def parquet_captions(root: Path) -> Path:
    captions = [two_captions(row) for row in range(IMAGES)]
    return parquet_of(root, {"image": cells(range(IMAGES)), "caption": captions})


def parquet_winoground(root: Path) -> Path:
    columns: dict[str, list[Any]] = {}
    for side in (0, 1):
        columns[f"image_{side}"] = cells(range(side, IMAGES, 2))
        columns[f"caption_{side}"] = [f"{COLOURS[row % 6]} {side} over {1 - side}" for row in range(IMAGES // 2)]
    return parquet_of(root, columns, 5)


def parquet_winogavil(root: Path) -> Path:
    sets = [[f"image{(3 * row + place) % IMAGES}" for place in range(5)] for row in range(10)]
    columns = {
        "cue": [f"{COLOURS[row % 6]} idea" for row in range(10)],
        "candidates": sets,
        "associations": [names[1:3] for names in sets],
        "candidate_images": [cells(int(name[5:]) for name in names) for names in sets],
    }
    return parquet_of(root, columns, 3)


FORMATS = {imagenet1k: ("--split", "val")} | dict.fromkeys(
    (cifar10, mnist, svhn, pcam, gtsrb, food101, pets, eurosat, caltech101), ()
)
"""What torchvision opens, each by its name, and further options."""


def options_of(build: Callable[[Path], Path]) -> tuple[str, ...]:
    """Of the command that imports an original."""
    return ("--format", build.__name__, *FORMATS[build]) if build in FORMATS else ()
