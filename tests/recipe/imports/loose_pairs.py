"""Small sets of images with captions as users have them: a folder, tables, COCO, tokens, a Hugging Face data set."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SHAPES: Final = ("circle", "square", "triangle", "star")
ACTIONS: Final = ("touches", "follows", "chases", "covers", "meets")


def drawn(number: int, side: int = 64) -> tuple[Image.Image, str]:
    """Two coloured shapes on a grey ground, and a caption with two attributes, an action and a place."""
    rng = random.Random(number)
    first, second = rng.sample(COLOURS, 2)
    one, two = rng.choice(SHAPES), rng.choice(SHAPES)
    image = Image.new("RGB", (side, side), tuple([rng.randrange(90, 170)] * 3))
    pen = ImageDraw.Draw(image)
    for colour, shape, top in ((first, one, 4), (second, two, side // 2 + 2)):
        _shape(pen, shape, colour, rng.randrange(2, side // 2), top, side // 3 + rng.randrange(-4, 5))
    caption = f"a {first} {one} {rng.choice(ACTIONS)} a {second} {two} on a grey wall"
    return image, caption


def _shape(pen: ImageDraw.ImageDraw, shape: str, colour: str, left: int, top: int, size: int) -> None:
    right, bottom, middle = left + size, top + size, left + size // 2
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=colour)
    elif shape == "triangle":
        pen.polygon([(middle, top), (right, bottom), (left, bottom)], fill=colour)
    else:
        pen.polygon([(middle, top), (right, top + size // 2), (middle, bottom), (left, top + size // 2)], fill=colour)


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    drawn(number)[0].save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def images_in(folder: Path, count: int) -> list[tuple[str, str]]:
    """Write images; their names and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, str]] = []
    for number in range(count):
        name = f"{number:04d}.jpg"
        (folder / name).write_bytes(jpeg(number))
        found.append((name, drawn(number)[1]))
    return found


def in_folder(folder: Path, count: int) -> Path:
    """Images with a .txt beside each."""
    for name, caption in images_in(folder, count):
        (folder / name).with_suffix(".txt").write_text(f"{caption}\n")
    return folder


def _json_beside(folder: Path, count: int) -> Path:
    for name, caption in images_in(folder, count):
        (folder / name).with_suffix(".json").write_text(json.dumps({"caption": caption, "punsafe": 0.1}))
    return folder


def _caption_beside(folder: Path, count: int) -> Path:
    for name, caption in images_in(folder / "inner", count):
        (folder / "inner" / name).with_suffix(".caption").write_text(caption)
    return folder


def separated(delimiter: str, suffix: str) -> Callable[[Path, int], Path]:
    def write(folder: Path, count: int) -> Path:
        rows = images_in(folder, count)
        path = folder / f"pairs{suffix}"
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([("filepath", "title"), *rows])
        return path

    return write


def _json_lines(folder: Path, count: int) -> Path:
    rows = images_in(folder / "images", count)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in rows))
    return path


def _metadata(folder: Path, count: int) -> Path:
    rows = images_in(folder, count)
    lines = (json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in rows)
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def parquet_of_bytes(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    columns = {"jpg": [jpeg(n) for n in range(count)], "caption": [drawn(n)[1] for n in range(count)]}
    pq.write_table(pa.table(columns), folder / "pairs.parquet", row_group_size=5)
    return folder / "pairs.parquet"


def _parquet_of_paths(folder: Path, count: int) -> Path:
    rows = images_in(folder, count)
    columns = {"image_path": [name for name, _ in rows], "caption": [caption for _, caption in rows]}
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def coco(folder: Path, count: int) -> Path:
    rows = images_in(folder / "train2017", count)
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(rows)]
    said = [{"image_id": number, "id": number, "caption": caption} for number, (_, caption) in enumerate(rows)]
    path = folder / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": said}))
    return path


def _karpathy(folder: Path, count: int) -> Path:
    rows = images_in(folder / "images", count)
    entries = [{"filename": name, "split": "train", "sentences": [{"raw": caption}]} for name, caption in rows]
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": entries}))
    return path


def _tokens(folder: Path, count: int) -> Path:
    rows = images_in(folder / "flickr30k-images", count)
    path = folder / "results_20130124.token"
    path.write_text("".join(f"{name}#0\t{caption}\n" for name, caption in rows))
    return path


def _hugging_face(folder: Path, count: int) -> Path:
    (folder / "train").mkdir(parents=True)
    images = [{"bytes": jpeg(number), "path": None} for number in range(count)]
    table = pa.table({"image": images, "label": [0] * count, "text": [drawn(number)[1] for number in range(count)]})
    with (
        pa.OSFile(str(folder / "train/data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=7)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return folder


SOURCES: Final[dict[str, Callable[[Path, int], Path]]] = {
    "folder-txt": in_folder,
    "folder-json": _json_beside,
    "folder-caption": _caption_beside,
    "csv": separated(",", ".csv"),
    "tsv": separated("\t", ".tsv"),
    "json-lines": _json_lines,
    "metadata-in-folder": _metadata,
    "parquet-bytes": parquet_of_bytes,
    "parquet-paths": _parquet_of_paths,
    "coco": coco,
    "karpathy": _karpathy,
    "flickr-tokens": _tokens,
    "hugging-face": _hugging_face,
}
