"""The choices of `benchmarks/ablation/PROTOCOL.md` on the development splits."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.pools import prepare_pools
from benchmarks.ablation.processes import run
from benchmarks.ablation.results import read_lines

FIRST_SEED, SEEDS = 900, 3
FIGURES: Final = ("r5", "development-concepts r5")
"""R@5 on both galleries."""
LABELS: Final[dict[str, tuple[str, ...]]] = {
    "softmax": (),
    "sigmoid": (
        "label.vocabulary.maxFraction=0.25",
        "label.heads.kind=Sigmoid",
        "label.heads.calibrate=true",
        "label.heads.lr=1.0e-4",
        "label.heads.epochs=40",
        "label.heads.weightDecay=3",
        "label.minProbability=0.4",
    ),
}
"""The paper's heads, and the silent ones with the settings of docs/method.md."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of a choice."""

    name: str
    arm: str
    steps: int
    sizes: tuple[str, ...] = ()
    labels: str = "softmax"

    def folder(self, work: Path) -> Path:
        """Labels of another kind have a folder of their own, with a pool of their own."""
        return work if self.labels == "softmax" else work / "kinds" / self.labels

    def command(self, document: str, work: Path) -> list[str]:
        """Call of the ablation."""
        return [
            sys.executable, "-m", "benchmarks.ablation", "--document", document, "--work", str(self.folder(work)),
            "--override", *LABELS[self.labels], "--split", "Development", "--first-seed", str(FIRST_SEED),
            "--seeds", str(SEEDS), "--arms", self.arm, "--set", f"samples={self.steps * BATCH}", *self.sizes,
        ]  # fmt: skip

    def r5(self, work: Path) -> float:
        """Mean R@5 in percent over the seeds and galleries, of the last training of each seed with these sizes."""
        from benchmarks.ablation.training import Sizes

        given = dict(size.split("=", 1) for size in (f"samples={self.steps * BATCH}", *self.sizes))
        sizes = vars(Sizes(**{name: json.loads(value) for name, value in given.items()}))
        found = {
            line["seed"]: [line[figure] for figure in FIGURES]
            for line in read_lines(self.folder(work) / "results.jsonl")
            if line["arm"] == self.arm and line["sizes"] == sizes and line["split"] == "Development"
        }
        figures = [value for values in found.values() for value in values]
        return sum(figures) / len(figures)


def choose(document: str, work: Path, processes: int) -> tuple[str, ...]:
    """Train and print the three choices, one after the other; returns them as options of the ablation."""
    prepare_pools(document, work, untrained=False)
    rates = [Value(name=f"lr={lr}", arm="plain", steps=384, sizes=(f"lr={lr}",)) for lr in ("1.5e-3", "1e-3", "3e-3")]
    lr = _best(rates, document, work, processes).sizes
    kinds = [Value(name=kind, arm="distill", steps=1500, sizes=lr, labels=kind) for kind in LABELS]
    for kind in kinds:
        _copy_filter(work, kind.folder(work))
    labels = _best(kinds, document, work, processes).labels
    weights = [
        Value(
            name=f"concept_weight={weight}",
            arm="distill",
            steps=1500,
            sizes=(*lr, f"concept_weight={weight}"),
            labels=labels,
        )
        for weight in ("2.0", "1.0", "5.0")
    ]
    chosen = _best(weights, document, work, processes)
    print(f"chosen: {' '.join(chosen.sizes)}; labels: {labels} ({' '.join(LABELS[labels]) or 'defaults'})")
    return chosen.sizes


def _copy_filter(work: Path, folder: Path) -> None:
    """Labels of another kind are made of the same kept pairs."""
    for name in ("pool", "junk"):
        if not (folder / name).exists():
            shutil.copytree(work / name, folder / name, ignore=shutil.ignore_patterns("label"))


def _best(values: Sequence[Value], document: str, work: Path, processes: int) -> Value:
    """The value with the highest R@5, the first of equal ones."""
    run([value.command(document, work) for value in values], processes)
    found = [value.r5(work) for value in values]
    for value, r5 in zip(values, found, strict=True):
        print(f"{value.arm}, {value.steps} steps, {value.name}: R@5 {r5:.2f}", flush=True)
    return values[found.index(max(found))]
