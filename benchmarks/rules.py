"""What the demo's filter keeps beside as many random pairs, seed by seed.

`--split HeldOut`: 6,285 of 7,842 pairs, 25.5 % junk by chance, 14.5 % filtered; another style +1.1 (-0.5 to 2.9).
Paired over images and seeds, 95 % intervals corrected over the figures. 500 images are too few for two points. The
figures are of 29 November; intervals of three seeds are wider since (Student's t).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import yaml

from benchmarks._arguments import make_parser
from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.report.per_image import PerImage, holm, paired_differences, per_image_path, read_per_image, verdict
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.run_folder import run_folder, run_layout

ROOT: Final = Path(__file__).resolve().parent.parent
NO_RULE: Final = {
    "minObjects": 0,
    "minComplexity": 0,
    "minActions": 0,
    "language": "Any",
    "textSpotting": {"mode": "Disabled"},
}
SHARDS: Final = 8

FIGURES: Final = ("caption to image, R@5", "image to caption, R@5", "top-1")
SEED: Final = 2026
"""Of the resamples."""

Json = dict[str, Any]
Images = dict[str, PerImage]


def main() -> None:
    """Run what is missing below the work folder, and print the line."""
    parser = make_parser("rules", __doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/rules"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--split", choices=("Development", "HeldOut"), default="Development", help="(default: %(default)s)"
    )
    options = parser.parse_args()
    work: Path = options.work.resolve()
    document = yaml.safe_load((ROOT / "examples/demo.yaml").read_text())
    document["spec"]["evaluate"]["split"] = options.split
    kept = [finished(at_seed(document, work, seed), work) for seed in range(options.seeds)]
    number = kept_pairs(kept[0])
    drawn = [
        finished(at_random(at_seed(document, work, seed), work, seed, number), work) for seed in range(options.seeds)
    ]
    sides = [[read_images(run) for run in runs] for runs in (drawn, kept)]
    line = {"benchmark": "rules", "seeds": options.seeds, "split": options.split, "pairs": number}
    print(json.dumps({**line, "figures": compared(*sides)}))


def compared(theirs: Sequence[Images], ours: Sequence[Images]) -> list[Json]:
    """Each figure of both sides, and the difference over images and seeds; Holm's correction covers all of them."""
    rng = np.random.default_rng(SEED)
    lines: list[Json] = []
    for name, first in ours[0].items():
        figures = [figure for figure in FIGURES if figure in first.figures]
        if not figures:
            continue
        hits = [
            np.stack([[run[name].figures[figure][0] for run in side] for figure in figures]) for side in (theirs, ours)
        ]
        weights_FN = np.stack([first.figures[figure][1] for figure in figures])
        means = [np.average(side.mean(axis=1), weights=weights_FN, axis=1) for side in hits]
        differences = paired_differences(hits[0], hits[1], weights_FN, rng, same_seeds=True)
        for figure, random, kept, found in zip(figures, *means, differences, strict=True):
            lines.append(
                {
                    "benchmark": name,
                    "figure": figure,
                    "kept": round(float(kept), 4),
                    "random": round(float(random), 4),
                    "difference": round(found.value, 4),
                    "interval": [round(found.low, 4), round(found.high, 4)],
                    "p": found.p,
                }
            )
    for line, adjusted in zip(lines, holm([line.pop("p") for line in lines]), strict=True):
        line["verdict"] = verdict(line["difference"], adjusted)
    return lines


def at_seed(document: Json, work: Path, seed: int) -> Json:
    """The demo below the work folder, with a seed of the training."""
    spec: Json = document["spec"]
    data = {**spec["data"], "output": str(work / "out")}
    return {**document, "spec": {**spec, "data": data, "train": {**spec["train"], "seed": seed}}}


def at_random(document: Json, work: Path, seed: int, number: int) -> Json:
    """The same on a random part of the pool, without a rule."""
    folder, storage = work / f"random-{seed}", Storage()
    if not folder.exists():
        uris = storage.expand([f"{ROOT}/{each}" for each in document["spec"]["data"]["sources"][0]["shards"]])
        pool = [sample for uri in uris for sample in read_samples(storage, uri)]
        drawn = Random(seed).sample(pool, number)
        for shard in range(SHARDS):
            samples = [(sample.key, sample.members) for sample in drawn[shard::SHARDS]]
            write_samples(storage, f"{folder}/{shard:05d}.tar", samples)
    spec: Json = document["spec"]
    data = {**spec["data"], "sources": [{"name": "clips", "shards": [f"{folder}/*.tar"]}]}
    metadata = {"name": f"random-{seed}"}
    return {**document, "metadata": metadata, "spec": {**spec, "data": data, "filter": {**NO_RULE, "workers": 2}}}


def finished(document: Json, work: Path) -> DihtRun:
    """Run a document, as far as its stages are not there; the run."""
    text = json.dumps(document)
    path = work / "documents" / f"{document['metadata']['name']}-{document['spec']['train']['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    subprocess.run([sys.executable, "-m", "diht_k8s.cli", "run", str(path)], cwd=ROOT, check=True, stdout=sys.stderr)
    return load(text, name=str(path))


def kept_pairs(run: DihtRun) -> int:
    """Pairs that the filter of a run has kept."""
    storage = Storage()
    committed = find_committed(storage, run_layout(run, storage), Stage.FILTER)
    assert committed is not None, "the run has ended"
    return sum(each["kept"] for each in committed.summary["shards"])


def read_images(run: DihtRun) -> Images:
    """What a run found for each image of its benchmarks, by name; in the order of uids."""
    storage, folder = Storage(), run_folder(run)
    report = json.loads(storage.read_bytes(f"{folder}/report.json"))
    layout: Layout = run_layout(run, storage)
    found: Images = {}
    for number, result in enumerate(report["benchmarks"]):
        each = read_per_image(storage, f"{layout.stage(Stage.EVALUATE)}/{per_image_path(number)}")
        ordered = None if each is None else each.in_order_of(sorted(each.uids))
        assert ordered is not None, "the evaluation has ended"
        found[result["name"]] = ordered
    return found


if __name__ == "__main__":
    main()
