"""The missing trainings of `benchmarks/ablation/PROTOCOL-2.md`, and the tables of both protocols.

Ended trainings are written to `benchmarks/ablation/evidence-2`, where another call goes on, on another machine too. A
training of 6,000 steps takes 205 to 410 CPU seconds.

The first protocol shows little: half of the captions name a colour, each length's labels came from another machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks._arguments import make_parser
from benchmarks.ablation import plan
from benchmarks.ablation.processes import ROOT, run, shares
from benchmarks.ablation.published import FIRST, RESULTS, publish, restore

CORPUS: Final = ROOT / "runs/corpus/train"
"""The pool that the document names."""


def ablation(options: argparse.Namespace, length: plan.Length, first: int, number: int, minutes: float) -> list[str]:
    """Command line of the ablation for trainings of a length."""
    return [
        sys.executable,
        "-m",
        "benchmarks.ablation",
        "--work",
        str(options.work),
        "--document",
        plan.DOCUMENT,
        "--split",
        plan.SPLIT,
        "--labels",
        str(RESULTS),
        "--probes",
        *plan.PROBES,
        "--minutes",
        f"{minutes:.1f}",
        "--first-seed",
        str(first),
        "--seeds",
        str(number),
        "--arms",
        *length.arms,
        "--set",
        *plan.sizes(length.steps),
    ]


def train(options: argparse.Namespace) -> None:
    """Run what is missing, length by length, seeds side by side."""
    deadline = time.monotonic() + 60 * options.minutes
    for length in options.lengths:
        if (minutes := (deadline - time.monotonic()) / 60) > 0:
            seeds = shares(plan.FIRST_SEED, length.seeds, options.processes)
            run([ablation(options, length, *share, minutes) for share in seeds], options.processes)


def main() -> None:
    """Train or print."""
    parser = make_parser("evidence", __doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/evidence", help="folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no training after so long")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one core each (default: 2)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        choices=[each.steps for each in plan.LENGTHS],
        help="of these lengths (default: all)",
    )
    parser.add_argument("--tables", action="store_true", help="print the tables of what is published")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.lengths = [each for each in plan.LENGTHS if options.steps is None or each.steps in options.steps]
    if options.tables:
        from benchmarks.ablation.evidence_tables import tables

        print(tables(FIRST, RESULTS))
        return
    if not CORPUS.exists():
        parser.error(
            f"no corpus in {CORPUS}: build it by `.venv/bin/python -m benchmarks.corpus` (some minutes, needs npm)"
        )
    restore(RESULTS, options.work)
    if not any(RESULTS.glob("labels-*.parquet")):
        from benchmarks.ablation.pools import publish_pool

        publish_pool(plan.DOCUMENT, options.work, RESULTS)
    try:
        train(options)
    finally:
        print(f"{publish(options.work, RESULTS, plan.SPLIT)} trainings in {RESULTS}")


if __name__ == "__main__":
    main()
