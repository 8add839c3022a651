"""Outputs and a checkpoint that commit 980d9c5 made: later versions find the stages cached and resume the training.

The archive holds two shards of the demo with 30 pairs each, a run document, the output of all stages, and the training as it
was left by a kill behind its first checkpoint (step 10 of 20, two ranks). A stage fails here when its `config_sha256`, a file
name or a file format has changed; a change that is meant (new parser rules, say) takes that stage out of the test, and the
CHANGELOG says that users run it again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.recipe.earlier import ARCHIVE, MODIFIED

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for shard in (tmp_path / "data").iterdir():
        os.utime(shard, (MODIFIED, MODIFIED))
    (tmp_path / "complete").rename(tmp_path / "out")
    return tmp_path


def run(folder: Path, *arguments: str) -> list[str]:
    """The lines that `diht run` prints."""
    command = [sys.executable, "-m", "diht_k8s.cli", "run", "run.yaml", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


def test_earlier_outputs_are_cached(earlier: Path) -> None:
    lines = run(earlier)
    assert [line.split() for line in lines if line.endswith("cached")] == [
        [stage, "cached"] for stage in ("filter", "label", "train", "evaluate")
    ]


def test_earlier_checkpoint_resumes(earlier: Path) -> None:
    shutil.rmtree(earlier / "out" / "train")
    (earlier / "partial-train").rename(earlier / "out" / "train")
    metrics = earlier / "out/train/metrics.jsonl"
    before = metrics.read_text().splitlines()
    run(earlier, "--until", "train")
    after = metrics.read_text().splitlines()
    assert after[: len(before)] == before, "a training that starts again writes its first steps again"
    assert json.loads(after[-1])["step"] == 20
