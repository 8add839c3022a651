"""`benchmarks/run gpu --smoke`: the whole benchmark with a tiny model on this machine, and what is measured is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = ("--smoke", "--skip", "compile", "--peak-tflops", "0.05", "--window", "1")
pytestmark = pytest.mark.timeout(3600)  # for machines that do other things, too


def measured(results: Path, *more: str) -> tuple[dict[str, Any], str]:
    """The JSON line, and what is said beside it."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *OPTIONS, *more, "--results", str(results)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]), found.stderr


@pytest.mark.slow
def test_benchmark_when_run_twice_then_figures_goals_and_table_once_measured(tmp_path: Path) -> None:
    chosen = ("--cards", "1", "--only", "ours, HN-NCE, heads", "--only", "HN-NCE alone")
    document, said = measured(tmp_path, *chosen)
    rows = {row["side"]: row for row in document["cases"]}
    assert list(rows) == ["ours, HN-NCE, heads", "HN-NCE alone"]
    ours = rows["ours, HN-NCE, heads"]
    assert ours["outcome"] == "done", said
    assert {
        "samples_per_second",
        "step_ms",
        "mfu_percent",
        "peak_memory_mib",
        "predicted_memory_mib",
        "loader_wait_percent",
        "gpu_hours_for_a_billion",
    } <= ours.keys()
    assert rows["HN-NCE alone"]["loss_ms"] > 0
    assert {goal["target"] for goal in document["goals"]} == {45.0, 1.2, 2.0}
    assert document["open_clip"].split(".")[0].isdigit()
    assert json.loads((tmp_path / "results.json").read_text()) == document
    assert "| tiny | 1 | ours, HN-NCE, heads |" in (tmp_path / "results.md").read_text()
    again, said = measured(tmp_path, *chosen)
    assert said.count("(kept)") == 2
    assert again == document


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".cache" / "open-clip").exists(),
    reason="open_clip's trainer needs .cache/open-clip, see benchmarks/run gpu --help",
)
def test_benchmark_when_beside_open_clips_trainer_then_both_are_measured_on_one_and_two(tmp_path: Path) -> None:
    document, said = measured(tmp_path)
    outcomes = {(row["side"], row["cards"]): row["outcome"] for row in document["cases"] if "FSDP" not in row["side"]}
    sides = ("open_clip", "ours", "ours, HN-NCE", "ours, HN-NCE, heads", "HN-NCE alone")
    assert outcomes == {(side, cards): "done" for cards in (1, 2) for side in sides}, said
    assert all(goal["found"] is not None for goal in document["goals"])
