"""Whether the demo's filter beats chance: its kept pairs beside as many random pairs of its pool, seed by seed, as one JSON line.

Each side is the demo as a user runs it, with another `train.seed`, which also draws the random pairs. These pass no rule. Differences are
paired over images and seeds, with 95 % intervals, corrected over the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.report.comparison import Run, differences_of
from diht_k8s.recipe.report.overview import headlines
from diht_k8s.recipe.report.per_image import per_image_path, read_per_image
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.run_folder import run_folder, run_layout
from diht_k8s.recipe.shards.samples import read_samples
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.tar_writer import write_samples

ROOT: Final = Path(__file__).resolve().parent.parent
NO_RULE: Final = {
    "minObjects": 0, "minComplexity": 0, "minActions": 0, "language": "Any", "textSpotting": {"mode": "Disabled"},
}  # fmt: skip
SHARDS: Final = 8

Json = dict[str, Any]


def main() -> None:
    """Run what is missing below the work folder, and print the line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run rules", description=__doc__)
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
    ours, theirs = [read_run(run) for run in kept], [read_run(run) for run in drawn]
    figures = [
        {
            "benchmark": name, "figure": figure, "kept": mean(ours, name, figure), "random": mean(theirs, name, figure),
            "difference": round(found["value"], 4), "interval": [round(each, 4) for each in found["interval"]],
            "verdict": found["verdict"],
        }
        for (name, figure), found in differences_of(theirs, ours).items()
    ]  # fmt: skip
    print(
        json.dumps(
            {"benchmark": "rules", "seeds": options.seeds, "split": options.split, "pairs": number, "figures": figures}
        )
    )


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


def read_run(run: DihtRun) -> Run:
    """The report of a run, and the images of its benchmarks."""
    storage, folder = Storage(), run_folder(run)
    report = json.loads(storage.read_bytes(f"{folder}/report.json"))
    layout: Layout = run_layout(run, storage)
    images = {
        result["name"]: found
        for number, result in enumerate(report["benchmarks"])
        if (found := read_per_image(storage, f"{layout.stage(Stage.EVALUATE)}/{per_image_path(number)}")) is not None
    }
    return report, images


def mean(runs: Sequence[Run], name: str, figure: str) -> float:
    """Of a headline figure over seeds."""
    results = [result for report, _ in runs for result in report["benchmarks"] if result["name"] == name]
    values = [head["value"] for result in results for head in headlines(result) if head["metric"] == figure]
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()
