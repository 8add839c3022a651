"""The evidence's tables, by kind of caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.ablation import plan, published_labels
from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.kinds import KINDS, by_kind
from benchmarks.ablation.probes import ACCURACY
from benchmarks.ablation.published import FIGURE, LINES, published_hits
from benchmarks.ablation.results import of_newest_pool, read_lines
from benchmarks.ablation.table import Column, Kept, Pair, cells_of, legend, pairs_of, table
from benchmarks.ablation.verdicts import verdicts

FIRST_STEPS: Final = (384, 1500, 6000)
FIRST_GALLERIES: Final = {"style": True, "concepts": False}
"""Galleries of the first protocol, and whether their R@5 over all captions is tested."""
ARMS_SHOWN: Final = {arm for length in plan.LENGTHS for arm in length.arms} | {"random"}
INTRODUCTION: Final = """# Tables of the evidence

Printed by `benchmarks/run evidence --tables` from the published trainings. R@5 in percent, mean of both directions, of galleries of
some 1,000 images, so chance finds 0.5. Behind it the difference to the arm that it is compared with, in points, with its 95 %
interval, paired over seeds (Student's t) and images. Bold is what stays clear after Holm's correction over the tested comparisons of
its table; what a protocol does not test is never bold. `colour` are captions that name a colour outside of the words about the ground,
`ground` those that name a ground alone, `neither` the rest."""


@dataclass(frozen=True)
class Trainings:
    """Published trainings of one protocol."""

    folder: Path
    lines: list[dict[str, Any]]

    def kept(self, steps: int, gallery: str) -> Kept:
        """Hits by image of a length, on the pool that came last."""
        return published_hits(self.folder, self.of(steps), gallery)

    def of(self, steps: int) -> list[dict[str, Any]]:
        """The lines of a length."""
        return of_newest_pool([line for line in self.lines if line["sizes"]["samples"] == steps * BATCH])

    def arms(self, steps: int) -> set[str]:
        """The arms that were trained so long."""
        return {line["arm"] for line in self.of(steps)}


def tables(first: Path, second: Path) -> str:
    """All of them, as `benchmarks/ablation/TABLES.md` has them."""
    parts = [
        INTRODUCTION,
        legend(ARMS_SHOWN),
        "## Second protocol",
        *second_tables(second),
        "## First protocol",
        *first_tables(first),
    ]
    return "\n\n".join(parts)


def first_tables(published: Path) -> Iterator[str]:
    """A table for each length and gallery of the first protocol."""
    trainings = read_trainings(published)
    for steps in FIRST_STEPS:
        for gallery, tested in FIRST_GALLERIES.items():
            columns = kind_columns(trainings.kept(steps, gallery), tested=tested)
            shown = table(columns, pairs_of(trainings.arms(steps)))
            yield f"{steps:,} steps, `{gallery}`{'' if tested else ', not tested'}:\n\n{shown}"


def second_tables(published: Path) -> Iterator[str]:
    """What there is of the second protocol: how many trainings of each length, what is tested, and what is shown."""
    trainings = read_trainings(published)
    require_planned(trainings.lines)
    yield counts_of(trainings)
    yield (
        "What the labels say, each image by heads that did not train on "
        f"it:\n\n{published_labels.agreement_table(published)}"
    )
    if not trainings.arms(plan.STEPS):
        return
    kept, pairs = _with_best_lengths(trainings)
    complete = _complete(trainings)
    primary = Column(f"`{plan.PRIMARY}`", kept(plan.PRIMARY), FIGURE, tested=complete)
    yield _verdicts(trainings, primary, pairs)
    yield f"The seven comparisons{'' if complete else ', **not complete, so nothing is tested**'}:\n\n" + table(
        [primary, *kind_columns(kept(plan.CAPTIONS), tested=False)], pairs
    )
    shown = [("distill", None), ("plain", None), *pairs, *plan.SHOWN_PAIRS]
    elsewhere = [Column(f"`{name}`", kept(name), FIGURE, tested=False) for name in plan.ELSEWHERE]
    yield f"Elsewhere, R@5 of names:\n\n{table(elsewhere, shown)}"
    for kind in ("linear", "few-shot"):
        probes = [Column(f"`{name}`", kept(f"{name} {kind}"), ACCURACY, tested=False) for name in plan.PROBES]
        yield f"Probes, {kind}, accuracy:\n\n{table(probes, shown)}"
    for length in plan.LENGTHS:
        if arms := trainings.arms(length.steps):
            columns = [
                Column(f"`{plan.PRIMARY}`", trainings.kept(length.steps, plan.PRIMARY), FIGURE, tested=False),
                *kind_columns(trainings.kept(length.steps, plan.CAPTIONS), tested=False),
            ]
            controls: list[Pair] = [("distill", each) for each in plan.CONTROLS if {each, "distill"} <= arms]
            pairs_here = [*((arm, None) for arm in length.arms), *controls, *plan.SHOWN_PAIRS]
            yield f"{length.steps:,} steps, not tested:\n\n{table(columns, pairs_here)}"


def kind_columns(kept: Kept, *, tested: bool) -> list[Column]:
    """R@5 of all captions, then of each kind, which no protocol tests."""
    split = {key: by_kind(images, FIGURE) for key, images in kept.items()}
    all_captions = Column("all captions", split, FIGURE, tested)
    return [all_captions, *(Column(kind, split, f"{FIGURE} {kind}", tested=False) for kind in KINDS)]


def best_length(lines: Sequence[dict[str, Any]], arm: str) -> int:
    """Steps at which an arm does best on the names of the development galleries, of the lengths that have all seeds;
    the deciding length without one.
    """
    found: dict[int, float] = {}
    for steps in sorted(length.steps for length in plan.LENGTHS if length.steps <= plan.STEPS):
        own = [line for line in lines if line["arm"] == arm and line["sizes"]["samples"] == steps * BATCH]
        if len(own) == plan.SEEDS:
            found[steps] = float(np.mean([line[f"{gallery} {FIGURE}"] for line in own for gallery in plan.DEVELOPMENT]))
    return max(found, key=found.__getitem__, default=plan.STEPS)


def read_trainings(published: Path) -> Trainings:
    """All that are published in a folder."""
    return Trainings(published, read_lines(published / LINES))


def require_planned(lines: Sequence[dict[str, Any]]) -> None:
    """Compare the second protocol's trainings with its plan.

    Raises:
        SystemExit: a training is there twice, is none of the plan, or has another pool or other settings.
    """
    planned = {
        (length.steps * BATCH, arm, seed)
        for length in plan.LENGTHS
        for arm in length.arms
        for seed in range(plan.FIRST_SEED, plan.FIRST_SEED + length.seeds)
    }
    seen = set[tuple[int, str, int]]()
    for line in lines:
        key = (line["sizes"]["samples"], line["arm"], line["seed"])
        told = f"{line['arm']}, {key[0] // BATCH} steps, seed {key[2]}"
        if key not in planned:
            raise SystemExit(f"the protocol has no training {told}: take it out of {LINES}")
        if key in seen:
            raise SystemExit(f"the training {told} is there twice: keep the first in {LINES}")
        seen.add(key)
        for name, value in {"pool": line["pool"], **line["sizes"]}.items():
            if name != "samples" and value != {"pool": lines[0]["pool"], **lines[0]["sizes"]}.get(name, value):
                raise SystemExit(f"the training {told} has another {name} than the first one: all of them have one")


def _verdicts(trainings: Trainings, primary: Column, pairs: Sequence[Pair]) -> str:
    if not _complete(trainings):
        deciding = [(each.steps, arm) for each in plan.LENGTHS if each.steps <= plan.STEPS for arm in each.arms]
        there = sum(len(_seeds(trainings, *each)) for each in deciding)
        return f"No verdict: {there} of the {plan.SEEDS * len(deciding)} trainings that decide are done."
    return verdicts({pair: cells[0] for pair, cells in cells_of([primary], pairs).items()})


def _seeds(trainings: Trainings, steps: int, arm: str) -> set[int]:
    return {line["seed"] for line in trainings.of(steps) if line["arm"] == arm}


def _complete(trainings: Trainings) -> bool:
    """Whether all that is tested, or chooses what is, was trained."""
    deciding = [length for length in plan.LENGTHS if length.steps <= plan.STEPS]
    return all(len(_seeds(trainings, each.steps, arm)) == plan.SEEDS for each in deciding for arm in each.arms)


def counts_of(trainings: Trainings) -> str:
    """How many trainings of each arm and length there are."""
    rows = ["| steps | trainings of how many | seeds of each arm |", "|---|---|---|"]
    for length in plan.LENGTHS:
        counts = {arm: len(_seeds(trainings, length.steps, arm)) for arm in length.arms}
        told = ", ".join(f"`{arm}` {count}" for arm, count in counts.items())
        rows.append(f"| {length.steps:,} | {sum(counts.values())} of {length.seeds * len(counts)} | {told} |")
    return "\n".join(rows)


def _with_best_lengths(trainings: Trainings) -> tuple[Callable[[str], Kept], list[Pair]]:
    """Hits of a gallery at the deciding length, with each control at its best one, and the seven comparisons."""
    best = {control: best_length(trainings.lines, control) for control in plan.CONTROLS}
    names = {arm: arm if steps == plan.STEPS else f"{arm}, {steps:,} steps" for arm, steps in best.items()}

    def kept(gallery: str) -> Kept:
        found = dict(trainings.kept(plan.STEPS, gallery))
        for arm, steps in best.items():
            own = trainings.kept(steps, gallery)
            found |= {(names[arm], seed): images for (name, seed), images in own.items() if name == arm}
        return found

    return kept, [*(("distill", names[control]) for control in plan.CONTROLS), *plan.PARTS]
