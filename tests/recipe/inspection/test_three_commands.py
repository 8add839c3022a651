"""From images on disk to a report in three commands, each typed as the one before advises, without an edit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diht_k8s.api.documents import load
from tests.recipe.filter.shards import filter_with
from tests.recipe.imports.loose_pairs import SOURCES, in_folder
from tests.recipe.inspection.data import diht, last_command

ROOT = Path(__file__).resolve().parents[3]


def typed(folder: Path, command: str, *more: str) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "diht_k8s.cli", *command.split()[1:], *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_commands_lead_from_300_images_to_a_report(tmp_path: Path) -> None:
    in_folder(tmp_path / "photos", 300)
    advised = typed(tmp_path, "diht import photos data/photos")
    advised = typed(tmp_path, last_command(advised))
    said = typed(tmp_path, last_command(advised))
    page = Path(said.splitlines()[-2].removeprefix("report: "))
    assert page == (tmp_path / "runs/photos/runs/latest/report.html").resolve()
    assert page.stat().st_size > 10_000
    trained = json.loads((tmp_path / "runs/photos/runs/latest/train/COMMITTED.json").read_text())["summary"]
    assert trained["samples"] == trained["steps"] * 32
    assert "overridden locally" not in said


@pytest.mark.parametrize("layout", ["csv", "coco", "parquet-bytes"])
def test_three_commands_lead_from_tables_through_the_first_stage(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = SOURCES[layout](tmp_path / "in", 40).relative_to(tmp_path)
    code, advised, problem = diht(capsys, f"diht import {source} data/pairs")
    assert code == 0, problem
    code, advised, problem = diht(capsys, last_command(advised))
    assert code == 0, problem
    assert last_command(advised) == "diht run run.yaml"
    if layout == "csv":
        typed(tmp_path, last_command(advised), "--until", "filter")
    else:
        filter_with(load(Path("run.yaml").read_text(), name="run.yaml"))
    counts = json.loads((tmp_path / "runs/pairs/runs/latest/filter/COMMITTED.json").read_text())["summary"]["counts"]
    assert counts["input"] == 40
    assert counts["kept"] >= 20
    assert counts["dropped"]["exclude"] == 4
