"""The missing trainings of `benchmarks/ablation/PROTOCOL-2.md`, and the tables of both protocols.

Ended trainings are written to `benchmarks/ablation/evidence-2`, where another call goes on, on another machine too. A
training of 6,000 steps takes 205 to 410 CPU seconds.

The first protocol shows little: half of the captions name a colour, each length's labels came from another machine.
Not begun: 12,000 steps, which decide nothing, and a check by `diht run`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks._arguments import make_parser
from benchmarks.ablation import plan
from benchmarks.ablation.published import publish, restore

ROOT: Final = Path(__file__).resolve().parents[1]
FIRST: Final = ROOT / "benchmarks/ablation/evidence"
"""The trainings of the first protocol, all of them."""
RESULTS: Final = ROOT / "benchmarks/ablation/evidence-2"
CORPUS: Final = ROOT / "runs/corpus/train"
"""The pool that the document names."""


def shares(first: int, seeds: int, processes: int) -> list[tuple[int, int]]:
    """(first seed, number) of each process: neighbours, nearly equal."""
    bounds = [first + round(seeds * number / processes) for number in range(processes + 1)]
    return [(low, high - low) for low, high in pairwise(bounds) if high > low]


def ablation(options: argparse.Namespace, length: plan.Length, first: int, number: int, minutes: float) -> list[str]:
    """Command line of the ablation for trainings of a length."""
    return [
        sys.executable, "-m", "benchmarks.ablation", "--work", str(options.work), "--document", plan.DOCUMENT,
        "--split", plan.SPLIT, "--labels", str(RESULTS), "--probes", *plan.PROBES, "--minutes", f"{minutes:.1f}",
        "--first-seed", str(first), "--seeds", str(number), "--arms", *length.arms, "--set", *length.sizes,
    ]  # fmt: skip


def train(options: argparse.Namespace) -> int:
    """Run what is missing, length by length, seeds side by side; returns the first exit code that is not 0."""
    deadline = time.monotonic() + 60 * options.minutes
    for length in options.lengths:
        minutes = (deadline - time.monotonic()) / 60
        if minutes <= 0:
            break
        commands = [
            ablation(options, length, *share, minutes)
            for share in shares(plan.FIRST_SEED, length.seeds, options.processes)
        ]
        running = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        if code := next((code for code in [process.wait() for process in running] if code), 0):
            return code
    return 0


def main() -> int:
    """Train or print; returns the exit code."""
    parser = make_parser("evidence", __doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/evidence", help="folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no training after so long")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one core each (default: 2)")
    parser.add_argument(
        "--steps", type=int, nargs="+", choices=[each.steps for each in plan.LENGTHS], help="of these lengths (default: all)"
    )  # fmt: skip
    parser.add_argument(
        "--choose", action="store_true", help="make the first protocol's choices on the development splits, and stop"
    )
    parser.add_argument("--publish", action="store_true", help="publish what has ended in the work folder, and stop")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is published")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.lengths = [each for each in plan.LENGTHS if options.steps is None or each.steps in options.steps]
    if options.choose:
        from benchmarks.ablation.choices import choose

        choose(plan.DOCUMENT, options.work, options.processes)
        return 0
    if options.tables:
        from benchmarks.ablation.evidence_tables import tables

        print(tables(FIRST, RESULTS))
        return 0
    code = 0
    if not options.publish:
        if not CORPUS.exists():
            parser.error(
                f"no corpus in {CORPUS}: build it by `.venv/bin/python -m benchmarks.corpus` (some minutes, needs npm)"
            )
        restore(RESULTS, options.work)
        if not any(RESULTS.glob("labels-*.parquet")):
            from benchmarks.ablation.pools import publish_pool

            publish_pool(plan.DOCUMENT, options.work, RESULTS)
        code = train(options)
    print(f"{publish(options.work, RESULTS, plan.SPLIT)} trainings in {RESULTS}")
    return code


if __name__ == "__main__":
    sys.exit(main())
