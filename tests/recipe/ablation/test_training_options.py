"""The benchmark of WSD and stages: which training is which, and the interval of a difference that is paired over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training_options import VARIANTS, collect, difference, summary, variant_of

COSINE: dict[str, Any] = {"samples": 64_000, "schedule": {"warmupSamples": 8_000}}


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("cosine", {}),
        ("wsd", {"schedule": {"type": "WSD", "warmupSamples": 8_000}}),
        ("stages", {"stages": [{"imageSize": 32, "samples": 44_800}, {"imageSize": 64, "samples": 19_200}]}),
        ("short", {"samples": 35_584}),
    ],
)
def test_variant_is_told_by_the_settings(variant: str, changes: dict[str, Any]) -> None:
    assert variant_of(COSINE | changes) == variant


def line(variant: str, seed: int, loss: float) -> dict[str, Any]:
    return {"variant": variant, "seed": seed, "steps": 1000, "validation_loss": loss}


def test_difference_is_paired_over_the_seeds_that_have_both() -> None:
    lines = [line("cosine", seed, float(seed)) for seed in range(4)]
    lines += [line("wsd", seed, seed + gap) for seed, gap in enumerate((0.1, 0.2, 0.3))]
    mean, low, high = difference(lines, "wsd", "cosine")
    assert mean == pytest.approx(0.2)
    # t of 98.3 % and two degrees of freedom: 7.6488; standard deviation 0.1
    assert (low, high) == (
        pytest.approx(0.2 - 7.6488 * 0.1 / 3**0.5, abs=1e-4),
        pytest.approx(0.2 + 7.6488 * 0.1 / 3**0.5, abs=1e-4),
    )


def test_whole_seeds_of_an_output_are_collected_with_their_evaluations(tmp_path: Path) -> None:
    schedules = {
        "wsd": {"schedule": {"type": "WSD"}},
        "short": {"samples": 35_584},
        "stages": {"stages": []},
        "cosine": {},
    }
    last = {
        "step": 9,
        "validation_loss": 2.5,
        "validation_image_to_text_top1": 0.3,
        "validation_text_to_image_top1": 0.2,
    }
    unfinished = (4, "short")
    for seed in (3, 4):
        for variant, changes in schedules.items():
            folder = tmp_path / f"train/{seed}-{variant}"
            folder.mkdir(parents=True)
            (folder / "STARTED.json").write_text(json.dumps({"config": {"seed": seed, "config": COSINE | changes}}))
            (folder / "metrics.jsonl").write_text('{"step": 1}\n' + json.dumps(last) + "\n")
            if (seed, variant) != unfinished:
                (folder / "COMMITTED.json").write_text("{}")
    evaluate = tmp_path / "evaluate/b"
    evaluate.mkdir(parents=True)
    (evaluate / "COMMITTED.json").write_text("{}")
    (evaluate / "STARTED.json").write_text(json.dumps({"reads": {"train": "train/3-wsd"}}))
    sides = {"text_to_image": {"recall": {"5": 0.02}}, "image_to_text": {"recall": {"5": 0.01}}}
    report = {"benchmarks": [{"name": "style", **sides}, {"name": "concepts", **sides}]}
    (evaluate / "report.json").write_text(json.dumps(report))
    found = collect(tmp_path)
    assert [(each["variant"], each["seed"]) for each in found] == [(each, 3) for each in VARIANTS]
    figures = {name: value for name, value in last.items() if name != "step"}
    assert found[1] == {"variant": "wsd", "seed": 3, "steps": 9, **figures, "style R@5": 1.5}


def test_summary_of_equal_trainings_shows_no_difference() -> None:
    lines = [line(variant, seed, seed + 0.5) for seed in range(3) for variant in ("cosine", "wsd", "stages", "short")]
    found = summary(lines)
    assert found["validation_loss"]["stages - short"] == [0.0, 0.0, 0.0]
    assert found["means"]["wsd"] == {"validation_loss": 1.5}


def test_what_was_chosen_after_the_results_is_called_so_and_has_intervals_of_its_own() -> None:
    lines = [
        {**line(variant, seed, 1.0), "style R@5": 20.0 + seed + gap * (1 + seed)}
        for seed in range(4)
        for variant, gap in (("cosine", 0), ("wsd", 1), ("stages", -1), ("short", -2))
    ]
    (found,) = summary(lines)["chosen after the results"].values()
    # 1, 2, 3, 4: standard deviation 1.291, t of 95 % and three degrees of freedom: 3.1824
    assert found["wsd - cosine"] == pytest.approx(
        [2.5, 2.5 - 3.1824 * 1.29099 / 2, 2.5 + 3.1824 * 1.29099 / 2], abs=1e-3
    )
