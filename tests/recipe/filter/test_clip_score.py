"""The rule on clip scores, by small models with random weights: scores as open_clip gives them, in the whole stage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diht_k8s.stages.filter import clip_score
from diht_k8s.stages.filter.clip_score import ClipScorer
from diht_k8s.stages.filter.text_spotting.spotter import Spotting, SpottingRequest, TextSpotter
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
from tests.recipe.filter.shards import (
    filter_with,
    kept_keys,
    rows_of,
    run_of,
)

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


@pytest.mark.parametrize(("batch", "pixels"), [(1, 64_000_000), (3, 64_000_000), (64, 7000)])
def test_size_of_the_batches_changes_no_verdict(
    tmp_path: Path, shards: str, model: str, monkeypatch: pytest.MonkeyPatch, batch: int, pixels: int
) -> None:
    filter_with(run_of(tmp_path / "whole", shards, rule(model)))
    whole, sizes = scores_of(tmp_path / "whole"), list[int]()
    low = between([score for score in whole.values() if score is not None], 5)
    monkeypatch.setattr(clip_score, "BATCH", batch)
    monkeypatch.setattr(clip_score, "MAX_PIXELS_AT_ONCE", pixels)
    score = ClipScorer.scores

    def counted(scorer: ClipScorer, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        sizes.append(len(images))
        return score(scorer, images, captions)

    monkeypatch.setattr(ClipScorer, "scores", counted)
    filter_with(run_of(tmp_path / "out", shards, rule(model, low)))
    assert scores_of(tmp_path / "out") == pytest.approx(whole, abs=1e-5)
    assert sum(sizes) == 14
    assert 1 <= max(sizes) <= min(batch, 3)
    dropped = [key for key, reason in reasons_of(tmp_path / "out").items() if reason == "clip_score"]
    assert dropped == [key for key in scored(whole) if (whole[key] or 0) < low]
    assert len(dropped) == 5


def test_pairs_below_min_score_are_dropped_and_counted_by_a_reason_of_their_own(
    tmp_path: Path, shards: str, model: str
) -> None:
    expected = reference(model)
    low = between([expected[key] for key in scored(expected)], 6)
    committed = filter_with(run_of(tmp_path / "out", shards, rule(model, low)))
    assert committed is not None
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
    report = json.loads((tmp_path / "out/runs/latest/filter/report.json").read_text())
    steps = {step["step"]: (step["dropped"], step["samples"]) for step in report["funnel"]}
    assert steps["clip_score"] == (6, 8)
    assert list(steps).index("action") < list(steps).index("clip_score") < list(steps).index("text")
    assert len(report["examples"]["clip_score"]) == 6


def test_only_images_above_min_score_are_searched_for_text(
    tmp_path: Path, shards: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[SpottingRequest]()

    def spot(spotter: TextSpotter, requests: Iterable[SpottingRequest]) -> Iterator[Spotting]:
        for request in requests:
            seen.append(request)
            yield Spotting((), "done")

    monkeypatch.setattr(TextSpotter, "spot_all", spot)
    expected = reference(model)
    low = between([expected[key] for key in scored(expected)], 10)
    spotting = {"textSpotting": {"mode": "Drop", "detectorSize": 96}}
    filter_with(run_of(tmp_path / "out", shards, {**rule(model, low), **spotting}))
    assert len(seen) == 4
    states = {row.index: row.ocr_state for shard in SHARDS for row in rows_of(tmp_path / "out", shard)}
    assert {key for key, state in states.items() if state != "not_run"} == {
        key for key in scored(expected) if expected[key] >= low
    }
