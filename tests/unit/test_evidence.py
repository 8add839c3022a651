"""The published trainings give the figures that benchmarks/README.md and its tables tell, computed here in plain
NumPy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TABLES = (BENCHMARKS / "ablation/TABLES.md").read_text()
CUT = 0.06
"""Points: one half hit of a line of the second protocol (distill_untrained, 3,000 steps, seed 108) was cut to 0."""


def trainings(folder: str) -> list[dict[str, Any]]:
    lines = (BENCHMARKS / "ablation" / folder / "trainings.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("folder", ["evidence", "evidence-2", "evidence-4/default", "evidence-4/things_224"])
def test_hits_of_the_images_sum_up_to_the_figure_of_each_training(folder: str) -> None:
    lines = trainings(folder)
    for gallery in {gallery for line in lines for gallery in line["hits"]}:
        table = pq.read_table(BENCHMARKS / "ablation" / folder / f"{gallery}.parquet")
        figure, weights = table.schema.metadata[b"figure"].decode(), table["weight"].to_numpy().sum()
        for line in (line for line in lines if gallery in line["hits"]):
            name = next(name for name in (f"{gallery} {figure}", gallery, figure) if name in line)
            share = 100 * table[line["hits"][gallery]].to_numpy().sum() / weights
            assert share == pytest.approx(line[name], abs=CUT), (gallery, line["arm"], line["seed"])


def test_seven_comparisons_of_the_second_protocol_are_those_of_tables_and_readme() -> None:
    rows = TABLES.split("The seven comparisons")[1].split("\n\n")[1].splitlines()[2:]
    readme = " ".join((BENCHMARKS / "README.md").read_text().split())
    expected = recomputed()
    assert len(rows) == len(expected) == 7
    for row in rows:
        arm, control, told = row.strip("| ").split(" | ")[:3]
        level, value, low, high, p = expected[arm.strip("`"), control.strip("`").partition(",")[0]]
        shown, bold, difference, bottom, top = re.findall(
            r"([\d.]+), (\**)([+-][\d.]+)\** \(([+-][\d.]+) to ([+-][\d.]+)\)", told
        )[0]
        near = 4 * (high - low)  # two draws of resamples differ by some percent of the interval
        assert float(shown) == pytest.approx(100 * level, abs=0.051)
        assert float(difference) == pytest.approx(100 * value, abs=0.051)
        assert (float(bottom), float(top)) == (pytest.approx(100 * low, abs=near), pytest.approx(100 * high, abs=near))
        assert bool(bold) is bool(p <= 0.05)
        assert f"{bold}{difference}{bold} ({bottom.removeprefix('+')} to {top.removeprefix('+')})" in readme
    assert f"{len(trainings('evidence-2'))} of 179 trainings are done" in readme


def recomputed() -> dict[tuple[str, str], tuple[float, float, float, float, float]]:
    """Arm and control -> level, difference, low, high, p corrected by Holm, of the best length of each control."""
    lines = trainings("evidence-2")
    hits = pq.read_table(BENCHMARKS / "ablation/evidence-2/style-names.parquet").to_pydict()
    weights = np.array(hits["weight"], dtype=float)

    def of_arm(arm: str, steps: int) -> list[dict[str, Any]]:
        own = [line for line in lines if (line["arm"], line["sizes"]["samples"]) == (arm, steps * 64)]
        return sorted(own, key=lambda line: line["seed"])

    def figures(arm: str, steps: int) -> np.ndarray:
        return np.array([hits[line["hits"]["style-names"]] for line in of_arm(arm, steps)], dtype=float)

    def development(arm: str, steps: int) -> float:
        names = ("development-style-names r5", "development-concepts-names r5")
        return float(np.mean([line[name] for line in of_arm(arm, steps) for name in names]))

    controls = ("distill_captions", "distill_untrained", "distill_shuffled", "plain")
    pairs = [("distill", arm, max((1500, 3000, 6000), key=lambda n: development(arm, n))) for arm in controls]
    pairs += [("hn_0.25", "plain", 6000), ("distill_hn", "distill", 6000), ("junk_kept", "junk_random", 6000)]
    rng, found = np.random.default_rng(7), {}
    for arm, control, steps in pairs:
        ours, theirs = figures(arm, 6000), figures(control, steps)
        gain, images, seeds = ours - theirs, len(weights), len(ours)
        value = gain.mean(axis=0).sum() / weights.sum()
        drawn = []
        for _ in range(4000):
            chosen, seed = rng.integers(0, images, images), rng.integers(0, seeds, seeds)
            of_seed = gain[:, chosen].sum(axis=1) / weights[chosen].sum()
            wider = np.sqrt(seeds / rng.chisquare(seeds - 1))
            drawn.append(of_seed.mean() + wider * (of_seed[seed].mean() - of_seed.mean()))
        spread = value + (np.array(drawn) - value) * np.sqrt(images / (images - 1))
        p = max(2 * min((spread <= 0).mean(), (spread >= 0).mean()), 2 / 10_000)
        found[arm, control] = (ours.sum() / weights.sum() / seeds, value, *np.quantile(spread, [0.025, 0.975]), p)
    largest = 0.0
    for rank, pair in enumerate(sorted(found, key=lambda pair: found[pair][4])):
        largest = max(largest, min(1.0, (7 - rank) * found[pair][4]))
        found[pair] = (*found[pair][:4], largest)
    return found
