"""What distillation gains over shuffled labels by the length of the training: a Markdown table and an SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.ablation.table import DISTILLED, SEED
from diht_k8s.recipe.report.paired import Difference, paired_differences
from diht_k8s.recipe.report.per_image import PerImage, read_per_image
from diht_k8s.recipe.shards.storage import Storage

AGAINST, FIGURE = "distill_shuffled", "r5"
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
        for gallery in galleries:
            kept = _hits(results, length * batch, gallery)
            common = sorted(set(kept[DISTILLED]) & set(kept[AGAINST]))
            if common:
                found[gallery][length], seeds[length] = _difference(kept, common), len(common)
    rows = [f"| steps | seeds | {' | '.join(galleries)} |", "|---" * (2 + len(galleries)) + "|"]
    for length, number in seeds.items():
        cells = [_cell(found[gallery][length]) for gallery in galleries]
        rows.append(f"| {length:,} | {number} | {' | '.join(cells)} |")
    if svg is not None and seeds:
        svg.write_text(_drawing(found))
    return "\n".join(rows)


def _hits(results: Path, samples: int, gallery: str) -> dict[str, dict[int, PerImage]]:
    """Arm -> seed -> hits, of the pool that came last."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in results.read_text().splitlines()]
    lines = [line for line in lines if line["sizes"]["samples"] == samples and gallery in line.get("hits", {})]
    kept: dict[str, dict[int, PerImage]] = {DISTILLED: {}, AGAINST: {}}
    for line in lines:
        if line["arm"] in kept and line["pool"] == lines[-1]["pool"]:
            images = read_per_image(Storage(), str(results.parent / line["hits"][gallery]))
            assert images is not None, "a line of results.jsonl has its images"
            kept[line["arm"]][line["seed"]] = images
    return kept


def _difference(kept: Mapping[str, Mapping[int, PerImage]], seeds: Sequence[int]) -> Difference:
    first_1SN, second_1SN = (
        np.stack([kept[arm][seed].figures[FIGURE][0] for seed in seeds])[None] for arm in (AGAINST, DISTILLED)
    )
    weights_1N = kept[DISTILLED][seeds[0]].figures[FIGURE][1][None]
    return paired_differences(first_1SN, second_1SN, weights_1N, np.random.default_rng(SEED), same_seeds=True)[0]


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
