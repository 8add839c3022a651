"""Published trainings: they give the same curve in another work folder, and are not brought in twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation.curve import curve
from benchmarks.ablation.published import LINES, publish, restore
from diht_k8s.recipe.report.per_image import PerImage, write_per_image
from diht_k8s.recipe.shards.storage import Storage

IMAGES, BATCH = 200, 4
GAINS = {384: 0.0, 1500: 0.3}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Three seeds of two arms at two lengths; distillation gains at the longer one."""
    folder, rng = tmp_path / "work", np.random.default_rng(0)
    lines: list[dict[str, object]] = []
    for steps, gain in GAINS.items():
        for seed in range(3):
            base_N = rng.integers(0, 2, IMAGES)
            for arm, hits_N in (
                ("distill_shuffled", base_N),
                ("distill", base_N + (rng.random(IMAGES) < gain)),
            ):
                path = f"hits/{steps}-{seed}-{arm}/style.parquet"
                hits = (hits_N.astype(float), np.full(IMAGES, 2.0))
                texts = [""] * IMAGES
                images = PerImage([f"u{row}" for row in range(IMAGES)], texts, texts, {"r5": hits})
                write_per_image(Storage(), str(folder / path), images)
                lines.append(
                    {"arm": arm, "seed": seed, "hits": {"style": path}, "sizes": {"samples": steps * BATCH}, "pool": "p", "split": "HeldOut"}
                )  # fmt: skip
    lines.append({**lines[0], "split": "Development"})
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def rows(work: Path, svg: Path | None = None) -> list[str]:
    return curve(work / "results.jsonl", [384, 1500, 6000], BATCH, ["style"], svg).splitlines()


def test_published_trainings_when_restored_elsewhere_then_give_the_same_curve(work: Path, tmp_path: Path) -> None:
    published, other = tmp_path / "published", tmp_path / "other"
    assert publish(work, published, "HeldOut") == 12
    restore(published, other)
    assert rows(other) == rows(work)


def test_published_trainings_when_restored_twice_then_stand_there_once(work: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    publish(work, published, "HeldOut")
    before = (work / "results.jsonl").read_text()
    restore(published, work)
    assert (work / "results.jsonl").read_text() == before
    assert len((published / LINES).read_text().splitlines()) == 12


def test_curve_when_a_length_is_missing_then_shows_and_draws_the_others(work: Path, tmp_path: Path) -> None:
    svg = tmp_path / "curve.svg"
    shown = rows(work, svg)
    assert shown[0] == "| steps | seeds | style |"
    assert shown[2] == "| 384 | 3 | +0.00 (+0.00 to +0.00) |"
    assert shown[3].startswith("| 1,500 | 3 | +1")
    assert len(shown) == 4
    assert svg.read_text().count("<circle") == 2
