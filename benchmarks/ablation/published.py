"""Results of trainings as files small enough for the repository: a line each, and each image's hits at 5.

In: a work folder of the ablation. Out: `trainings.jsonl`, and for each gallery `GALLERY.parquet` with the images' `uid` and a column
of hits for each training (0, 1 or 2: both directions). Restored into another work folder they give the same tables there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ablation.results import read_lines
from diht_k8s.recipe.report.per_image import PerImage, read_per_image, write_per_image
from diht_k8s.recipe.shards.storage import Storage

LINES: Final = "trainings.jsonl"
FIGURE: Final = "r5"
DIRECTIONS: Final = 2.0


def publish(work: Path, folder: Path, split: str) -> int:
    """Write the trainings of a split; returns how many there are."""
    found = [line for line in read_lines(work / "results.jsonl") if line.get("split") == split]
    folder.mkdir(parents=True, exist_ok=True)
    columns: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for line in found:
        for gallery, path in line.get("hits", {}).items():
            images = read_per_image(Storage(), str(work / path))
            assert images is not None, f"{path} belongs to a line of results.jsonl"
            columns[gallery].setdefault("uid", images.uids)
            columns[gallery][path] = np.asarray(images.figures[FIGURE][0], np.int8)
    for gallery, table in columns.items():
        pq.write_table(pa.table(table), folder / f"{gallery}.parquet", compression="zstd")
    (folder / LINES).write_text("".join(json.dumps(line) + "\n" for line in found))
    return len(found)


def restore(folder: Path, work: Path) -> None:
    """Bring published trainings into a work folder that lacks them."""
    work.mkdir(parents=True, exist_ok=True)
    there = {json.dumps(line) for line in read_lines(work / "results.jsonl")}
    missing = [line for line in read_lines(folder / LINES) if json.dumps(line) not in there]
    for gallery in {gallery for line in missing for gallery in line.get("hits", {})}:
        table = pq.read_table(folder / f"{gallery}.parquet")
        uids = table["uid"].to_pylist()
        for path in (line["hits"][gallery] for line in missing if gallery in line.get("hits", {})):
            hits_N = table[path].to_numpy().astype(np.float64)
            images = PerImage(uids, [""] * len(uids), [""] * len(uids), {FIGURE: (hits_N, np.full(len(uids), DIRECTIONS))})  # fmt: skip
            write_per_image(Storage(), str(work / path), images)
    with (work / "results.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in missing)
