"""What distillation gains over shuffled labels by the length of the training: a Markdown table and an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.ablation.arms import ARMS
from benchmarks.ablation.results import of_newest_pool, read_hits, read_lines
from benchmarks.ablation.table import common_seeds, differences
from diht_k8s.recipe.report.paired_bootstrap import Difference

FIGURE: Final = "r5"
_ARMS: Final = {arm.name: arm for arm in ARMS}
ARMS_OF_CURVE: Final = (replace(_ARMS["distill"], against="distill_shuffled"), _ARMS["distill_shuffled"])
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 60, 20, 40, 50
COLOURS: Final = ("#1f5fa8", "#b35900", "#2f7d32", "#7b3fa0")


def curve(results: Path, steps: Sequence[int], batch: int, galleries: Sequence[str], svg: Path | None) -> str:
    """The table of a work folder's trainings; draws it where `svg` names a file.

    Args:
        results: `results.jsonl`.
        steps: lengths, as far as both arms were trained so long.
        batch: pairs a step.
        galleries: benchmarks, by name.
        svg: where to draw.
    """
    found: dict[str, dict[int, Difference]] = {gallery: {} for gallery in galleries}
    seeds: dict[int, int] = {}
    for length in steps:
        lines = [line for line in read_lines(results) if line["sizes"]["samples"] == length * batch]
        for gallery in galleries:
            kept = read_hits(
                results.parent, of_newest_pool([line for line in lines if gallery in line.get("hits", {})]), gallery
            )
            if common := common_seeds(kept, ARMS_OF_CURVE):
                found[gallery][length] = differences(kept, ARMS_OF_CURVE[0], common, [FIGURE])[0]
                seeds[length] = len(common)
    rows = [f"| steps | seeds | {' | '.join(galleries)} |", "|---" * (2 + len(galleries)) + "|"]
    for length, number in seeds.items():
        cells = [_cell(found[gallery][length]) for gallery in galleries]
        rows.append(f"| {length:,} | {number} | {' | '.join(cells)} |")
    if svg is not None and seeds:
        svg.write_text(_drawing(found))
    return "\n".join(rows)


def _cell(found: Difference) -> str:
    return f"{100 * found.value:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _drawing(found: Mapping[str, Mapping[int, Difference]]) -> str:
    """Points with intervals over the logarithm of the steps, in points of R@5."""
    steps = sorted({length for points in found.values() for length in points})
    ends = [100 * end for points in found.values() for each in points.values() for end in (each.low, each.high)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = max(high - low, 0.1)

    def y(value: float) -> float:
        return TOP + (high - value) / span * (HEIGHT - TOP - BOTTOM)

    def x(length: int, gallery: int) -> float:
        first, last = np.log(steps[0]), np.log(steps[-1])
        share = (np.log(length) - first) / (last - first) if last > first else 0.5
        return float(LEFT + 40 + share * (WIDTH - LEFT - RIGHT - 80) + 8 * gallery)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18">R@5 of distillation minus shuffled labels, points, 95 % intervals</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">steps of 64 pairs</text>',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#888"/>',
        *(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:+.1f}</text>' for value in {low, 0.0, high}),
        *(f'<text x="{x(length, 0):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{length:,}</text>' for length in steps),
    ]  # fmt: skip
    for number, (gallery, points) in enumerate(found.items()):
        colour, places = COLOURS[number], [(x(length, number), each) for length, each in sorted(points.items())]
        line = " ".join(f"{left:.1f},{y(100 * each.value):.1f}" for left, each in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        for left, each in places:
            parts += [
                f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{y(100 * each.low):.1f}" y2="{y(100 * each.high):.1f}" stroke="{colour}" stroke-width="2"/>',
                f'<circle cx="{left:.1f}" cy="{y(100 * each.value):.1f}" r="4" fill="{colour}"/>',
            ]
        parts.append(f'<text x="{WIDTH - RIGHT - 120}" y="{TOP + 16 * number}" fill="{colour}">{gallery}</text>')
    return "\n".join([*parts, "</svg>"])
