"""The recipe that `diht init` writes for a folder of pairs, beside the closed forms on the same pairs, cross-validated.

Each fold holds out a share of the groups (pairs of one caption or one image are a group, and one pair of it is tested).
`diht init` sees the other pairs alone, and chooses settings and weights on development pairs of its own among them.
R@5 in percent; the difference from each reference, text to image and image to text, is the mean over the folds, with
its 95 % interval from the folds' own, which are paired over images and independent of each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from benchmarks._arguments import make_parser

ROOT: Final = Path(__file__).resolve().parent.parent
DIRECTIONS: Final = ("text_to_image", "image_to_text")


def main() -> None:
    """Print a line for each folder."""
    parser = make_parser("pools", __doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="with NAME.png (or .jpg, .webp) and NAME.txt of each pair"
    )
    parser.add_argument("--words", type=Path, default=ROOT / "examples/data/words.safetensors")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the written document")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        groups = _groups(folder)
        with tempfile.TemporaryDirectory() as scratch:
            folds = [
                _measured(
                    Path(scratch) / str(fold), groups, (fold, arguments.folds), arguments.words.resolve(), arguments.set
                )
                for fold in range(arguments.folds)
            ]
        pairs = sum(map(len, groups))
        print(json.dumps({"benchmark": "pools", "pool": folder.name, "pairs": pairs, **_summary(folds)}), flush=True)


def _groups(folder: Path) -> list[list[Path]]:
    """Images that share their caption or their bytes, in an order that depends on the names alone."""
    images = sorted(each for each in folder.iterdir() if each.suffix in {".png", ".jpg", ".webp"})
    of_text, of_bytes = {}, {}
    columns = [
        (
            of_text.setdefault(image.with_suffix(".txt").read_text().strip().casefold(), len(of_text)),
            len(images) + of_bytes.setdefault(image.read_bytes(), len(of_bytes)),
        )
        for image in images
    ]
    rows = np.repeat(np.arange(len(images)), 2)
    shape = (len(images), 2 * len(images))
    has_key = csr_array((np.ones(2 * len(images)), (rows, np.ravel(columns))), shape=shape)
    _, group_of_image = connected_components(has_key @ has_key.T)
    groups: dict[int, list[Path]] = defaultdict(list)
    for group, image in zip(group_of_image, images, strict=True):
        groups[group].append(image)
    return sorted(groups.values(), key=lambda group: hashlib.sha256(group[0].name.encode()).digest())


def _measured(
    workdir: Path, groups: list[list[Path]], fold: tuple[int, int], words: Path, fields: list[str]
) -> dict[str, Any]:
    """The retrieval of one fold's pairs, as the report has it, and what the training's development pairs chose."""
    folder, tested = workdir / "training", workdir / "tested"
    for place in (folder, tested):
        place.mkdir(parents=True)
    for number, group in enumerate(groups):
        held_out = number % fold[1] == fold[0]
        for image in group[:1] if held_out else group:
            for file in (image, image.with_suffix(".txt")):
                shutil.copy(file, (tested if held_out else folder) / file.name)

    def diht(*arguments: str) -> None:
        program = Path(sys.executable).parent / "diht"
        subprocess.run([program, *arguments], cwd=workdir, stdout=sys.stderr, check=True)

    diht("import", "training", "pairs")
    diht("import", "tested", "test-pairs")
    diht("init", "pairs", "--name", "pool", "--for", "laptop", "--words", str(words), "--output", "run.yaml")
    # the name is what `filter.decontaminate` knows
    benchmarks = [{"name": "held-out", "type": "Retrieval", "shards": ["test-pairs/*.tar"]}]
    changes = [
        part for field in (f"evaluate.benchmarks={json.dumps(benchmarks)}", *fields) for part in ("--set", field)
    ]
    diht("run", "run.yaml", *changes)
    stages = workdir / "runs/pool/runs/latest"
    training = json.loads((stages / "train/result.json").read_text())["summary"]
    return {
        **json.loads((stages / "evaluate/report.json").read_text())["benchmarks"][0],
        "interpolation": training.get("interpolation"),
    }


def _summary(folds: list[dict[str, Any]]) -> dict[str, Any]:
    def recall(found: dict[str, Any]) -> list[float]:
        return [found[key]["recall"]["5"] for key in DIRECTIONS]

    summary: dict[str, Any] = {"model": _percent(np.mean([recall(fold) for fold in folds], axis=0))}
    chosen = [fold["interpolation"] for fold in folds if fold["interpolation"] is not None]
    summary["chosen"] = [each["share"] for each in chosen]
    summary["development"] = {
        share: round(float(np.mean([each["recall_at_5"][share] for each in chosen])), 1)
        for share in (chosen[0]["recall_at_5"] if chosen else ())
    }
    for place, reference in enumerate(folds[0]["references"]):
        found = [fold["references"][place] for fold in folds]
        summary[reference["name"]] = _percent(np.mean([recall(each) for each in found], axis=0))
        for key in DIRECTIONS:
            differences = [each["difference"][key] for each in found]
            mean = np.mean([each["value"] for each in differences])
            halves = np.array([each["interval"][1] - each["interval"][0] for each in differences]) / 2
            half = np.sqrt((halves**2).sum()) / len(folds)
            summary[f"minus {reference['name']}, {key}"] = _percent([mean, mean - half, mean + half])
    return summary


def _percent(shares: Any) -> list[float]:
    return [round(100 * float(share), 1) for share in shares]


if __name__ == "__main__":
    main()
