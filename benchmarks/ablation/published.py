"""Published trainings: `trainings.jsonl`, and each image's hits by gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ablation.processes import ROOT
from benchmarks.ablation.results import read_lines
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.per_image import PerImage, read_per_image, write_per_image

FIRST: Final = ROOT / "benchmarks/ablation/evidence"
"""The trainings of the first protocol, all of them."""
RESULTS: Final = ROOT / "benchmarks/ablation/evidence-2"
"""Those of the second one."""
LINES: Final = "trainings.jsonl"
FIGURE: Final = "r5"
FIGURE_KEY: Final = b"figure"


def publish(work: Path, folder: Path, split: str) -> int:
    """Write the trainings of a split; returns how many there are."""
    found = [line for line in read_lines(work / "results.jsonl") if line["split"] == split]
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, dict[str, Any]] = {}
    figures: dict[str, str] = {}
    for line in found:
        for gallery, path in line["hits"].items():
            images = read_per_image(Storage(), str(work / path))
            assert images is not None, f"{path} belongs to a line of results.jsonl"
            figure = figures.setdefault(gallery, figure_of(images))
            hits_N, weights_N = images.figures[figure]
            if gallery not in columns:
                weight = np.asarray(weights_N, np.int8)
                columns[gallery] = {"uid": images.uids, "caption": images.texts, "weight": weight}
            if columns[gallery]["uid"] != images.uids:
                raise SystemExit(f"{path} is of other images than the trainings before: measure them on one corpus")
            columns[gallery][path] = np.asarray(hits_N, np.float32)  # those of tied items are fractional
    for gallery, table in columns.items():
        written = pa.table(table).replace_schema_metadata({FIGURE_KEY: figures[gallery].encode()})
        pq.write_table(written, folder / f"{gallery}.parquet", compression="zstd")
    (folder / LINES).write_text("".join(json.dumps(line) + "\n" for line in found))
    return len(found)


def restore(folder: Path, work: Path) -> None:
    """Bring published trainings into a work folder that lacks them."""
    work.mkdir(parents=True, exist_ok=True)
    there = {json.dumps(line) for line in read_lines(work / "results.jsonl")}
    missing = [line for line in read_lines(folder / LINES) if json.dumps(line) not in there]
    for gallery in {gallery for line in missing for gallery in line["hits"]}:
        paths = [line["hits"][gallery] for line in missing if gallery in line["hits"]]
        for path, images in zip(paths, _read(folder, gallery, paths), strict=True):
            write_per_image(Storage(), str(work / path), images)
    with (work / "results.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in missing)


def published_hits(folder: Path, lines: Sequence[dict[str, Any]], gallery: str) -> dict[tuple[str, int], PerImage]:
    """(arm, seed) -> hits by image, of trainings of one length."""
    found = _read(folder, gallery, [line["hits"][gallery] for line in lines])
    return {(line["arm"], line["seed"]): images for line, images in zip(lines, found, strict=True)}


def _read(folder: Path, gallery: str, paths: Sequence[str]) -> list[PerImage]:
    """The hits that `publish` wrote as columns."""
    table = pq.read_table(folder / f"{gallery}.parquet", columns=["uid", "caption", "weight", *paths])
    uids, captions = table["uid"].to_pylist(), table["caption"].to_pylist()
    weights_N = table["weight"].to_numpy().astype(np.float64)
    figure = table.schema.metadata[FIGURE_KEY].decode()
    return [
        PerImage(uids, [""] * len(uids), captions, {figure: (table[path].to_numpy().astype(np.float64), weights_N)})
        for path in paths
    ]


def figure_of(images: PerImage) -> str:
    """R@5, or the one figure of a probe."""
    return FIGURE if FIGURE in images.figures else next(iter(images.figures))
