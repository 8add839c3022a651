"""The rule on clip scores, by small models with random weights: scores as open_clip gives them, in the whole stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.recipe.evaluate.small_run import CONFIG, export_model
from tests.recipe.filter.clip_scores import (
    RESNET,
    SHARDS,
    between,
    reasons_of,
    reference,
    rule,
    scored,
    scores_of,
)
from tests.recipe.filter.shards import filter_with, kept_keys, report_of, run_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "config", [CONFIG, RESNET, {**CONFIG, "custom_text": True}], ids=["vit", "resnet", "other class"]
)
def test_scores_are_those_of_open_clip_pair_by_pair(tmp_path: Path, shards: str, config: dict[str, Any]) -> None:
    export_model(tmp_path / "clip", config)
    filter_with(run_of(tmp_path / "out", shards, rule(f"{tmp_path}/clip")))
    expected, found = reference(f"{tmp_path}/clip"), scores_of(tmp_path / "out")
    assert {key for key, score in found.items() if score is None} == {"0-1", "1-1"}
    assert {key: found[key] for key in scored(found)} == pytest.approx(
        {key: expected[key] for key in scored(found)}, abs=1e-5
    )
    assert len({round(score, 4) for score in found.values() if score is not None}) > 7, "the model tells pairs apart"


def test_pairs_below_min_score_are_dropped_and_counted_by_a_reason_of_their_own(
    tmp_path: Path, shards: str, model: str
) -> None:
    expected = reference(model)
    low = between([expected[key] for key in scored(expected)], 6)
    committed = filter_with(run_of(tmp_path / "out", shards, rule(model, low)))
    gone = {key for key in scored(expected) if expected[key] < low}
    assert committed.summary["counts"] == {
        "input": 16,
        "kept": 8,
        "bad": {},
        "dropped": {"clip_score": 6, "complexity": 2},
    }
    assert {key for key, reason in reasons_of(tmp_path / "out").items() if reason == "clip_score"} == gone
    kept = [key for shard in SHARDS for key in kept_keys(tmp_path / "out", shard)]
    assert set(kept) == set(scored(expected)) - gone
    report = report_of(tmp_path / "out")
    steps = {step["step"]: (step["dropped"], step["samples"]) for step in report["funnel"]}
    assert steps["clip_score"] == (6, 8)
    assert list(steps).index("action") < list(steps).index("clip_score") < list(steps).index("text")
    assert len(report["examples"]["clip_score"]) == 6
