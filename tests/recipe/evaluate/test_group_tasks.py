"""PairMatching, CaptionChoice and Association from shards to report, page and comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.report.per_image import read_per_image
from tests.recipe.evaluate.small_run import COLOURS, draw, evaluate_alone, measured


def shards(folder: Path) -> list[dict[str, Any]]:
    """A benchmark of each type."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "MultiLabel": [
            {"classes": sorted({row % 4, row * 3 % 4}), "ignored_classes": [4] * (row == 7)} for row in range(20)
        ],
        "PairMatching": [{"group": row // 2, "caption": f"a {COLOURS[row % 6]} disc {row % 2}"} for row in range(12)],
        "CaptionChoice": [
            {"captions": [f"{COLOURS[row % 6]} disc" * (row > 0), f"{COLOURS[-1 - row % 6]} box", "a box"]}
            for row in range(12)
        ],
        "Association": [
            {"cues": [{"group": row // 6, "cue": "red thing", "associated": row % 6 < 2, "candidates": 6}]}
            for row in range(12)
        ],
    }
    benchmarks: list[dict[str, Any]] = []
    for kind, metas in kinds.items():
        samples = [
            (f"{row:04d}", {"png": draw(COLOURS[row % 6], "disc", row), "json": json.dumps(meta).encode()})
            for row, meta in enumerate(metas)
        ]
        write_samples(Storage(), f"{folder}/{kind}/0.tar", samples)
        (folder / kind / "classnames.txt").write_text("".join(f"{colour}\n" for colour in COLOURS))
        benchmarks.append({"name": kind.lower(), "type": kind, "shards": [f"{folder}/{kind}/0.tar"]})
    return benchmarks


def test_stage_when_groups_are_evaluated_writes_scores_page_and_card(tmp_path: Path) -> None:
    results = measured(stage := evaluate_alone(tmp_path, shards(tmp_path)))
    assert [[each["name"] for each in result["scores"]] for result in results] == [
        ["11-point mAP", "all-point mAP"],
        ["text score", "image score", "group score"],
        ["accuracy"],
        ["Jaccard"],
    ]
    assert (results[2]["questions"], results[2]["left_out"]) == (11, 1)
    assert results[3]["templates_from"] == "DataComp's prompt"
    for number, result in enumerate(results):
        kept = read_per_image(Storage(), f"{stage}/benchmarks/{number:03d}.parquet")
        assert kept is not None
        for each in result["scores"] if result["type"] != "MultiLabel" else []:
            hits, weights = kept.figures[each["name"]]
            assert hits.sum() / weights.sum() == pytest.approx(each["value"])
            assert each["interval"][0] <= each["value"] <= each["interval"][1]
    page = (stage / "report.html").read_text()
    for part in (
        "text score",
        "group score",
        "Jaccard",
        "11-point mAP",
        "Average precision of each class",
        "Equal similarities are no success",
        "On pairmatching, the text",
    ):
        assert part in page
    card = (stage / "README.md").read_text()
    assert "mean_average_precision_11_points" in card
    assert "| multilabel |" in card
