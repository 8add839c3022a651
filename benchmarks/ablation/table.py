"""The ablation's results as a table and an image: means over seeds, and differences to another arm by `report.paired_bootstrap`.

The differences are paired over the images and over the seeds, with Holm's correction over the whole table: the one
comparison that the report and `diht report A B` make, too. In: lines of `results.jsonl`, and each training's hits by
image. Out: Markdown, and an SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.ablation.arms import ARMS, RIDGE, SHOWN, Arm
from diht_k8s.recipe.report.paired_bootstrap import Difference, holm, paired_differences, verdict
from diht_k8s.recipe.report.per_image import PerImage

TITLES: Final = {"r5": "R@5", "r1": "R@1", "mrr": "MRR", "zero_shot": "zero-shot"}
DISTILLED, CONTROLS = "distill", ("distill_shuffled", "distill_untrained")
SEED: Final = 2024
"""Of the resamples: a table printed twice is the same."""
WIDTH, ROW, LEFT, RIGHT, TOP = 760, 24, 330, 20, 34

Kept = Mapping[tuple[str, int], PerImage]


@dataclass(frozen=True)
class Compared:
    """An arm's figures against another arm's."""

    arm: Arm
    differences: list[Difference]
    """of each figure, as shares; empty without another arm."""
    decided: list[bool]
    """whether each is clearly different after Holm's correction over the table."""

    def cells(self) -> list[str]:
        """For the table, in points; bold where it is clearly different."""
        shown = [
            f"{100 * each.value:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})" for each in self.differences
        ]
        cells = [f"**{text}**" if bold else text for text, bold in zip(shown, self.decided, strict=True)]
        return cells


def table(
    lines: Sequence[dict[str, Any]],
    kept: Kept,
    *,
    figures: Sequence[str] = SHOWN,
    prefix: str = "",
    svg: str | None = None,
) -> str:
    """Markdown of the seeds that all arms have; draws the first figure's differences where `svg` names a file.

    Args:
        lines: results, in percent.
        kept: (arm, seed) -> hits by image; trainings without them do not count.
        figures: shown and tested, as far as the images have them; Holm's correction is over all of them.
        prefix: of the gallery's figures in `lines`.
        svg: where to draw.
    """
    arms = [arm for arm in ARMS if any(line["arm"] == arm.name for line in lines)]
    seeds = common_seeds(kept, arms)
    if not seeds:
        raise SystemExit("no seed has all arms with their images: train again, earlier results keep no images")
    shown = [figure for figure in figures if figure in kept[arms[0].name, seeds[0]].figures]
    values = {(line["arm"], line["seed"]): line for line in lines}
    first, *others = (TITLES[figure] for figure in shown)
    header = ["arm", first, "against", f"{first} difference", *others]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    compared = _compared(kept, arms, seeds, shown)
    for each in compared:
        arm = each.arm
        mean = np.mean([values[arm.name, seed][prefix + shown[0]] for seed in seeds])
        cells = each.cells() or [""] * len(shown)
        rows.append(f"| `{arm.name}`: {arm.what} | {mean:.1f} | {arm.against or ''} | {' | '.join(cells)} |")
    rows += [
        f"| `{RIDGE}`: ridge regression from the teacher's features to words, no training | {line[shown[0]]:.1f} |"
        + " |" * (len(header) - 2)
        for line in [line for line in lines if line["arm"] == RIDGE and not prefix][:1]  # each process may leave one
    ]
    if svg:
        Path(svg).write_text(_drawing([each for each in compared if each.differences], len(seeds), first))
    return "\n".join([*rows, "", f"{len(seeds)} seeds."])


def _compared(kept: Kept, arms: Sequence[Arm], seeds: Sequence[int], figures: Sequence[str]) -> list[Compared]:
    rows = [
        (row, differences(kept, row, seeds, figures) if row.against else [])
        for row in chain.from_iterable(_with_controls(arm, arms) for arm in arms)
    ]
    tested = [difference for _, differences in rows for difference in differences]
    adjusted = iter(holm([difference.p for difference in tested]))
    return [
        Compared(row, differences, [verdict(each.value, next(adjusted)) in ("better", "worse") for each in differences])
        for row, differences in rows
    ]


def _with_controls(arm: Arm, arms: Sequence[Arm]) -> list[Arm]:
    """The arm, and distillation once more against its controls, which have every part of it but the knowledge."""
    names = {each.name for each in arms}
    controls = [control for control in CONTROLS if control in names] if arm.name == DISTILLED else []
    first = arm if arm.against in names else replace(arm, against=None)  # what was not trained is not compared with
    return [first, *(replace(arm, against=control) for control in controls)]


def common_seeds(kept: Kept, arms: Sequence[Arm]) -> list[int]:
    """The seeds that all arms have."""
    by_arm = [{seed for name, seed in kept if name == arm.name} for arm in arms]
    return sorted(set.intersection(*by_arm)) if by_arm else []


def differences(kept: Kept, arm: Arm, seeds: Sequence[int], figures: Sequence[str]) -> list[Difference]:
    """Of each figure to the arm that it is compared with, paired over images and seeds."""
    first_FSN, second_FSN = (
        np.stack([[kept[name, seed].figures[figure][0] for seed in seeds] for figure in figures])
        for name in (str(arm.against), arm.name)
    )
    weights_FN = np.stack([kept[arm.name, seeds[0]].figures[figure][1] for figure in figures])
    return paired_differences(first_FSN, second_FSN, weights_FN, np.random.default_rng(SEED), same_seeds=True)


def _drawing(rows: Sequence[Compared], seeds: int, figure: str) -> str:
    """Points with intervals along one axis, in points of a figure."""
    most = max(1.0, *(100 * max(abs(row.differences[0].low), abs(row.differences[0].high)) for row in rows))
    height = TOP + ROW * len(rows) + 30
    middle, scale = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2 / most
    title = f"{figure}, points, paired over images and {seeds} seeds, 95 % interval"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{middle}" y="18" text-anchor="middle">{title}</text>',
        f'<line x1="{middle}" y1="{TOP - 6}" x2="{middle}" y2="{height - 24}" stroke="#888"/>',
    ]
    for number, row in enumerate(rows):
        found, y = row.differences[0], TOP + ROW * number + 8
        x, left, right = (middle + 100 * scale * value for value in (found.value, found.low, found.high))
        colour = "#777" if not row.decided[0] else "#1a7f37" if found.value > 0 else "#b3261e"
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{row.arm.name} - {row.arm.against}</text>',
            f'<line x1="{left:.1f}" y1="{y}" x2="{right:.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>',
        ]
    for value in (-most, 0.0, most):
        parts.append(
            f'<text x="{middle + scale * value:.1f}" y="{height - 8}" text-anchor="middle">{value:+.1f}</text>'
        )
    return "\n".join([*parts, "</svg>"])
