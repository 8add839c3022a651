"""The ablation: what filter, distillation and hard negatives do for a small model on the demo's pool.

Writes `results.jsonl` in the work folder; what stands there is not trained again. Remove the pools where filter or
teacher have changed.

The figures are of 25 November, on a pool of 6,590 pairs that was replaced on the 29th. Ten seeds, Student's intervals,
no correction over some 80 of them. At 112 steps the filter gains +0.6 ± 0.6 points of R@5 with 30 % junk, -0.6 ± 0.5 on
the pool without. The 384 steps (`--arms plain distill distill_shuffled --set samples=24576`) were added because these
left distillation open.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks._arguments import make_parser
from benchmarks.ablation.arms import ARMS, Split
from benchmarks.ablation.processes import ROOT
from benchmarks.ablation.results import of_newest_pool, read_hits, read_lines
from diht_k8s.api.hashing import sha256_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.per_image import write_per_image
from diht_k8s.runtime.launcher import MALLOC

if TYPE_CHECKING:
    from benchmarks.ablation.training import Sizes


def main() -> None:
    """Run what is missing, or print the table."""
    options = _options()
    results = Path(options.work).resolve() / "results.jsonl"
    if options.table:
        print_table(options, results)
        return
    if any(name not in os.environ for name in MALLOC):  # as trainings have it; read when the process starts
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.ablation", *sys.argv[1:]], {**os.environ, **MALLOC}
        )
    os.chdir(ROOT)
    train(options, results)


def print_table(options: argparse.Namespace, results: Path) -> None:
    """Print what stands there of the chosen sizes, on the pool that came last."""
    from benchmarks.ablation.table import figure_columns, legend, pairs_of, table

    sizes = asdict(_sizes(options))
    lines = [line for line in read_lines(results) if _fits(line, sizes=sizes)]
    if not lines:
        raise SystemExit(f"{results} has no training of these sizes: run without --table, or name others by --set")
    lines = [line for line in of_newest_pool(lines) if line["split"] == lines[-1]["split"]]
    kept = read_hits(results.parent, lines, next(iter(lines[0]["hits"])))
    arms = {arm for arm, _ in kept}
    print(f"{table(figure_columns(kept), pairs_of(arms))}\n\n{legend(arms)}")


def _sizes(options: argparse.Namespace) -> Sizes:
    from benchmarks.ablation.training import Sizes

    return Sizes(**{name: json.loads(value) for name, value in (item.split("=", 1) for item in options.sizes)})


def train(options: argparse.Namespace, results: Path) -> None:
    """Train the arms that have no line yet."""
    import torch

    from benchmarks.ablation.pools import prepare
    from benchmarks.ablation.training import Bench
    from diht_k8s.api.documents import load

    torch.set_num_threads(1)
    sizes = _sizes(options)
    evaluate = load((ROOT / options.document).read_text(), name=options.document).spec.evaluate
    assert evaluate is not None, "the document evaluates"
    known = {arm.name: arm for arm in ARMS}
    chosen = [known[name] for name in options.arms or known]
    untrained = any(arm.labels == "untrained" for arm in chosen)
    material = prepare(
        options.document,
        results.parent,
        options.split,
        options.overrides,
        untrained=untrained,
        published=options.labels,
        probes=options.probes,
    )
    zero_shot = next((each for each in evaluate.benchmarks if each.class_names and each.split == options.split), None)
    class_names = Path(str(zero_shot.class_names)).read_text().splitlines() if zero_shot else []
    bench = Bench(material, sizes, class_names, zero_shot.templates if zero_shot else [])
    setting = {"sizes": asdict(sizes), "pool": material.digest, "split": options.split}
    done = {(line["arm"], line["seed"]) for line in read_lines(results) if _fits(line, **setting)}
    deadline = time.monotonic() + 60 * options.minutes
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in chosen:
            if (arm.name, seed) in done:
                continue
            if time.monotonic() > deadline:
                return
            figures, per_image = bench.run(arm, seed)
            folder = f"hits/{sha256_of([arm.name, seed, setting])[:16]}"
            paths = {name: f"{folder}/{name}.parquet" for name in per_image}
            for name, found in per_image.items():
                write_per_image(Storage(), str(results.parent / paths[name]), found)
            line = {"arm": arm.name, "seed": seed, **figures, "hits": paths, **setting}
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps({key: value for key, value in line.items() if key not in setting}), flush=True)


def _fits(line: dict[str, Any], *, sizes: dict[str, Any], **setting: str) -> bool:
    """Whether a training had these sizes; an older line may name some that are gone."""
    return line["sizes"].items() >= sizes.items() and all(line[key] == value for key, value in setting.items())


def _options() -> argparse.Namespace:
    parser = make_parser("ablation", __doc__)
    parser.add_argument("--work", default="runs/ablation", help="folder for pools and results (default: %(default)s)")
    parser.add_argument(
        "--document", default="examples/demo.yaml", help="whose pool and teacher (default: %(default)s)"
    )
    parser.add_argument(
        "--override",
        nargs="*",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="change the document, such as label.heads.kind=Sigmoid; the work folder then has to be another",
    )
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        dest="sizes",
        help="change a size of `training.Sizes`; with --table: which sizes",
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no training after so long")
    parser.add_argument(
        "--arms",
        nargs="*",
        metavar="ARM",
        choices=[arm.name for arm in ARMS],
        help=f"some of them, in this order: {', '.join(arm.name for arm in ARMS)}",
    )
    parser.add_argument("--labels", type=Path, help="folder of published labels, in place of the label stage")
    parser.add_argument("--probes", nargs="*", default=[], metavar="NAME", help="classification benchmarks to probe")
    parser.add_argument(
        "--split",
        choices=get_args(Split),
        default="Development",
        help="whose retrieval benchmarks are the galleries (default: %(default)s)",
    )
    parser.add_argument("--table", action="store_true", help="print the table of what is there, of the last split")
    return parser.parse_args()


if __name__ == "__main__":
    main()
