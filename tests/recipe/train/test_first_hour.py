"""`make first-hour` without a card: every part runs, with a few scenarios of the GPU tier and the smallest
benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # for machines that do other things, too


def test_first_hour_when_on_cpus_then_all_parts_go_well_and_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "hour"
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.first_hour", "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DIHT_GPU_TESTS_ON": "cpu"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"send back: {folder}.tar.gz"
    for name in ("losses", "stage", "memory", "curves"):
        said = (folder / f"{name}.log").read_text()
        assert "gpu ran on: 2 CPU processes" in said
        assert " passed" in said.splitlines()[-1]
    assert "| tiny | 1 | HN-NCE alone |" in (folder / "benchmark.log").read_text()
    with tarfile.open(f"{folder}.tar.gz") as tar:
        names = set(tar.getnames())
    results = ("machine.log", "curves.xml", "summary.txt", "benchmark/results.json", "benchmark/results.md")
    assert {f"first-hour/{name}" for name in results} <= names
