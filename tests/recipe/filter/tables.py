"""Tables of URLs and captions from templates, and shards of the same pairs as img2dataset writes them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.run import DihtRun
from tests.recipe.filter.shards import drawn, run_of, tar_of

TEMPLATES = (
    "a {colour} {animal} chasing a {colour2} ball number {number}",
    "a {animal} sleeps on the {colour} sofa number {number}",
    "a man riding a {colour} horse past house {number}",
    *("{animal} poster {number}", "{colour} {animal} {number}", "IMG_{number}.jpg", "phone case {number}"),
    *("the {animal} of lake {number}", "sale {number} percent", "ein Hund und eine Katze mit dem Ball {number}"),
    *("{colour} dress size {number}", "logo {number}", "portrait of a {animal}, print {number}", "page {number}"),
    *("{colour} {animal} figurine number {number}", "{animal} {number} wallpaper", "{number} {colour} tiles"),
)
COLOURS = ("red", "green", "blue", "brown", "black", "white")
ANIMALS = ("dog", "cat", "horse", "goat", "duck", "fox")

Pair = dict[str, Any]


def pairs(count: int, seed: int = 0, base: str = "http://127.0.0.1:9") -> list[Pair]:
    """Rows with DataComp's columns; one in 23 has no caption and one in 29 a watermark."""
    draw = random.Random(seed)
    found = list[Pair]()
    for number in range(count):
        words = {"colour": draw.choice(COLOURS), "colour2": draw.choice(COLOURS), "animal": draw.choice(ANIMALS)}
        caption = draw.choice(TEMPLATES).format(number=number, **words)
        found.append(
            {
                "uid": hashlib.md5(f"{seed} {number}".encode(), usedforsecurity=False).hexdigest(),
                "url": f"{base}/{number}.png",
                "text": None if number % 23 == 5 else caption,
                "original_width": 96 if number % 7 else 20,
                "original_height": 64,
                "pwatermark": 0.9 if number % 29 == 3 else 0.1,
            }
        )
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """A table of the rows, in the format that the name says; `options` are Parquet's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, **options)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue())
    return str(path)


def shard_of(rows: Sequence[Mapping[str, Any]], images: Sequence[bytes] | None = None) -> bytes:
    """A tar of the rows with an image each, members and .json as img2dataset writes them."""
    members = list[tuple[str, bytes]]()
    for number, (row, image) in enumerate(zip(rows, images or [drawn()] * len(rows), strict=True)):
        key = f"{number:09}"
        members.append((f"{key}.jpg", image))
        members.append((f"{key}.json", json.dumps({**row, "caption": row["text"], "key": key}).encode()))
        if row["text"] is not None:
            members.append((f"{key}.txt", row["text"].encode()))
    return tar_of(members)


def table_run(
    output: Path | str, tables: str | list[str], rules: Mapping[str, Any] | None = None, **source: Any
) -> DihtRun:
    """A run that filters captions, by the paper's rules."""
    patterns = [tables] if isinstance(tables, str) else tables
    return run_of(output, [], {"minActions": 1, "maxBadPercent": 10, **(rules or {})}, captions=patterns, **source)


def survivors(output: Path) -> list[Pair]:
    """The rows of the survivors' tables, in order."""
    files = sorted((output / "runs/latest/filter" / "survivors").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]
