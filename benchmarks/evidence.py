"""The trainings of `benchmarks/ablation/PROTOCOL.md`, as far as they are missing, and their tables. `benchmarks/run evidence --help`.

Trainings that have ended are written to `benchmarks/ablation/evidence`; another call, on another machine too, goes on from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.curve import curve
from benchmarks.ablation.published import publish, restore

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks/ablation/evidence"
"""The trainings that are published."""
DOCUMENT: Final = "benchmarks/ablation/corpus.yaml"
CORPUS: Final = ROOT / "runs/corpus/train"
"""The pool that the document names."""
GALLERIES: Final = ("style", "concepts")


@dataclass(frozen=True)
class Length:
    """Trainings of one length."""

    steps: int
    seeds: int
    arms: tuple[str, ...]

    @property
    def sizes(self) -> list[str]:
        """Options of the ablation."""
        return ["--set", f"samples={self.steps * BATCH}", *FROZEN]


FROZEN: Final = ("lr=1.5e-3", "concept_weight=2.0")
"""The choices of the development splits, as NAME=VALUE of `training.Sizes`."""
LENGTHS: Final = (
    Length(384, 20, ("plain", "distill", "distill_shuffled", "distill_untrained", "hn_0.25", "distill_hn", "random", "junk_kept", "junk_random")),
    Length(1500, 20, ("plain", "distill", "distill_shuffled", "hn_0.25", "distill_hn")),
    Length(6000, 10, ("distill", "distill_shuffled")),
)  # fmt: skip


def shares(seeds: int, processes: int) -> list[tuple[int, int]]:
    """(first seed, number) of each process: neighbours, nearly equal."""
    bounds = [round(seeds * number / processes) for number in range(processes + 1)]
    return [(low, high - low) for low, high in pairwise(bounds) if high > low]


def ablation(options: argparse.Namespace, length: Length, *more: str) -> list[str]:
    """Command line of the ablation for trainings of a length."""
    common = ["--work", str(options.work), "--document", DOCUMENT, "--split", "HeldOut"]
    return [sys.executable, "-m", "benchmarks.ablation", *common, *more, *length.sizes]


def train(options: argparse.Namespace) -> int:
    """Run what is missing, length by length, seeds side by side; returns the first exit code that is not 0."""
    from benchmarks.ablation.pools import prepare_pools

    untrained = any("distill_untrained" in length.arms for length in options.lengths)
    prepare_pools(DOCUMENT, options.work, untrained=untrained)  # once, before processes share it
    deadline = time.monotonic() + 60 * options.minutes
    for length in options.lengths:
        minutes = (deadline - time.monotonic()) / 60
        if minutes <= 0:
            break
        commands = [
            ablation(options, length, "--first-seed", str(first), "--seeds", str(number), "--minutes", f"{minutes:.1f}", "--arms", *length.arms)
            for first, number in shares(length.seeds, options.processes)
        ]  # fmt: skip
        running = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        if code := next((code for code in [process.wait() for process in running] if code), 0):
            return code
    return 0


def print_tables(options: argparse.Namespace) -> int:
    """Print the tables of R@5 by gallery and length; returns the first exit code that is not 0."""
    for gallery in GALLERIES:
        for length in options.lengths:
            print(f"\n{gallery}, {length.steps} steps\n", flush=True)
            command = ablation(options, length, "--table", "--gallery", gallery, "--figures", "r5")
            if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
                return code
    steps = [length.steps for length in LENGTHS]
    print(
        f"\ndistill minus distill_shuffled, R@5\n\n{curve(options.work / 'results.jsonl', steps, BATCH, GALLERIES, options.svg)}"
    )
    return 0


def main() -> int:
    """Train or print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks/run evidence", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/evidence", help="folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no training after so long")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one core each (default: 2)")
    parser.add_argument(
        "--steps", type=int, nargs="+", choices=[each.steps for each in LENGTHS], help="of these lengths (default: all)"
    )
    parser.add_argument("--choose", action="store_true", help="make the choices on the development splits, and stop")
    parser.add_argument("--svg", type=Path, help="with --tables: draw the curve into this file")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.lengths = [each for each in LENGTHS if options.steps is None or each.steps in options.steps]
    if options.choose:
        from benchmarks.ablation.choices import choose

        choose(DOCUMENT, options.work, options.processes)
        return 0
    restore(RESULTS, options.work)
    if options.tables:
        return print_tables(options)
    if not CORPUS.exists():
        parser.error(
            f"no corpus in {CORPUS}: build it by `.venv/bin/python -m benchmarks.corpus` (some minutes, needs npm)"
        )
    code = train(options)
    print(f"{publish(options.work, RESULTS, 'HeldOut')} trainings in {RESULTS}")
    return code


if __name__ == "__main__":
    sys.exit(main())
