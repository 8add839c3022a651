"""The lines of `results.jsonl`, and each image's hits beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.per_image import PerImage, read_per_image


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_newest_pool(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with the pool of the last one."""
    return [line for line in lines if line["pool"] == lines[-1]["pool"]]


def read_hits(work: Path, lines: Sequence[dict[str, Any]], gallery: str) -> dict[tuple[str, int], PerImage]:
    """(arm, seed) -> hits by image.

    Raises:
        SystemExit: a training's are not there.
    """
    found: dict[tuple[str, int], PerImage] = {}
    for line in lines:
        path = work / line["hits"][gallery]
        if (images := read_per_image(Storage(), str(path))) is None:
            raise SystemExit(f"{path} is missing: take its line out of results.jsonl, and train again")
        found[line["arm"], line["seed"]] = images
    return found
