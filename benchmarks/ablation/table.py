"""The ablation's results as a table and an image: means over seeds, and differences to another arm, paired by seed, with 95 % intervals.

In: lines of `results.jsonl`. Out: Markdown, and an SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.ablation.arms import ARMS, RIDGE, Arm

MAIN: Final = "r5"
SHOWN: Final = (MAIN, "r1", "mrr", "zero_shot")
DISTILLED, CONTROLS = "distill", ("distill_shuffled", "distill_untrained")
LEVEL: Final = 0.95
WIDTH, ROW, LEFT, RIGHT, TOP = 760, 24, 330, 20, 34


@dataclass(frozen=True)
class Difference:
    """Mean difference of paired seeds and half the width of its interval, in points."""

    mean: float
    half: float
    seeds: int

    @property
    def text(self) -> str:
        """For the table; bold where the interval leaves 0 out."""
        shown = f"{self.mean:+.1f} ± {self.half:.1f}"
        return f"**{shown}**" if abs(self.mean) > self.half else shown


def table(lines: Sequence[dict[str, Any]], svg: str | None = None) -> str:
    """Markdown of the seeds that all arms have; draws the differences where `svg` names a file."""
    arms = [arm for arm in ARMS if any(line["arm"] == arm.name for line in lines)]
    seeds = _common_seeds(lines, arms)
    values = {(line["arm"], line["seed"]): line for line in lines}
    rows = ["| arm | R@5 | against | R@5 difference | R@1 | MRR | zero-shot |", "|---|---|---|---|---|---|---|"]
    drawn: list[tuple[str, Difference]] = []
    for arm in chain.from_iterable(_compared(arm, arms) for arm in arms):
        differences = [_difference(values, arm, seeds, name) for name in SHOWN if arm.against]
        if arm.against:
            drawn.append((f"{arm.name} - {arm.against}", differences[0]))
        shown = [difference.text for difference in differences] or [""] * len(SHOWN)
        mean = np.mean([values[arm.name, seed][MAIN] for seed in seeds])
        rows.append(f"| `{arm.name}`: {arm.what} | {mean:.1f} | {arm.against or ''} | {' | '.join(shown)} |")
    rows += [
        f"| `{RIDGE}`: ridge regression from the teacher's features to words, no training | {line[MAIN]:.1f} | | | | | |"
        for line in lines
        if line["arm"] == RIDGE
    ]
    if svg:
        Path(svg).write_text(_drawing(drawn, len(seeds)))
    return "\n".join([*rows, "", f"{len(seeds)} seeds."])


def _compared(arm: Arm, arms: Sequence[Arm]) -> list[Arm]:
    """The arm, and distillation once more against its controls, which have every part of it but the knowledge."""
    controls = [control.name for control in arms if control.name in CONTROLS] if arm.name == DISTILLED else []
    return [arm, *(replace(arm, against=control) for control in controls)]


def _common_seeds(lines: Sequence[dict[str, Any]], arms: Sequence[Arm]) -> list[int]:
    by_arm = [{line["seed"] for line in lines if line["arm"] == arm.name} for arm in arms]
    return sorted(set.intersection(*by_arm))


def _difference(values: dict[tuple[str, int], dict[str, Any]], arm: Arm, seeds: Sequence[int], name: str) -> Difference:
    """Student's interval of the mean difference."""
    from scipy.stats import t

    each = np.array([values[arm.name, seed][name] - values[str(arm.against), seed][name] for seed in seeds])
    if len(each) < 2:
        return Difference(float(each.mean()), float("inf"), len(each))
    half = t.ppf((1 + LEVEL) / 2, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
    return Difference(float(each.mean()), float(half), len(each))


def _drawing(rows: Sequence[tuple[str, Difference]], seeds: int) -> str:
    """Points with intervals along one axis."""
    ends = [abs(row.mean) + row.half for _, row in rows]
    most = max(1.0, *(end for end in ends if np.isfinite(end)))
    height = TOP + ROW * len(rows) + 30
    middle, scale = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2 / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{middle}" y="18" text-anchor="middle">R@5, points, paired over {seeds} seeds, 95 % interval</text>',
        f'<line x1="{middle}" y1="{TOP - 6}" x2="{middle}" y2="{height - 24}" stroke="#888"/>',
    ]
    for number, (name, row) in enumerate(rows):
        y, x, half = TOP + ROW * number + 8, middle + scale * row.mean, scale * min(row.half, most)
        colour = "#777" if abs(row.mean) <= row.half else "#1a7f37" if row.mean > 0 else "#b3261e"
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{name}</text>',
            f'<line x1="{x - half:.1f}" y1="{y}" x2="{x + half:.1f}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>',
        ]
    for value in (-most, 0.0, most):
        parts.append(
            f'<text x="{middle + scale * value:.1f}" y="{height - 8}" text-anchor="middle">{value:+.1f}</text>'
        )
    return "\n".join([*parts, "</svg>"])
