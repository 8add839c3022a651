"""Two shells start one document at once, and one of them is killed: both end well, with what an undisturbed run
makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.recipe.imports.loose_pairs import in_folder

ROOT: Final = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SETTINGS: Final = (
    "filter.workers=1",
    "label.workers=1",
    "train.processesPerNode=1",
    "train.samples=960",
    "train.checkpoint.everySeconds=3",
)
MADE: Final = (
    "filter/*/kept/*.tar",
    "filter/*/scores/*.parquet",
    "label/*/labels/*.parquet",
    "label/*/vocabulary.json",
    "label/*/teacher_heads.safetensors",
    "train/*/model/*.safetensors",
)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def diht(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "diht_k8s.cli", *arguments],
        cwd=folder,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


class Shell:
    """`diht run` in a shell of its own."""

    def __init__(self, folder: Path, output: str, name: str) -> None:
        self.said = folder / f"{output}-{name}.txt"
        settings = [f"--set={each}" for each in (*SETTINGS, f"data.output={output}")]
        with self.said.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "diht_k8s.cli", "run", "run.yaml", *settings],
                cwd=folder,
                env=environment(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def kill(self, *, whole: bool) -> None:
        """Kill the command, and with it at once its programs, which else end by themselves."""
        programs = descendants(self.process.pid) if whole else []
        for pid in (self.process.pid, *programs):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def ended_well(self) -> None:
        assert self.process.wait(timeout=600) == 0, self.said.read_text()[-3000:]


def descendants(pid: int) -> list[int]:
    try:
        found = [
            int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()
        ]
    except OSError:
        return []
    return [below for child in found for below in (child, *descendants(child))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shells")
    in_folder(folder / "photos", 160)
    diht(folder, "import", "photos", "data/photos", "--shard-size", "20")
    diht(folder, "init", "data/photos")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> tuple[dict[str, Any], float]:
    """What one shell alone makes, and in how many seconds."""
    began = time.monotonic()
    Shell(folder, "alone", "a").ended_well()
    return made(folder / "alone"), time.monotonic() - began


def made(output: Path) -> dict[str, Any]:
    """Digests of all that stages make, and the figures of the evaluation."""
    files = {path.relative_to(output): path for pattern in MADE for path in output.glob(pattern)}
    digests = {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}
    report = json.loads((output / "runs/latest/evaluate/report.json").read_text())
    return {**digests, "figures": report["benchmarks"]}


@pytest.mark.parametrize("seed", range(20))
def test_two_shells_of_which_one_is_killed_make_what_one_alone_makes(
    folder: Path, undisturbed: tuple[dict[str, Any], float], seed: int
) -> None:
    whole, seconds = undisturbed
    draw, output = random.Random(seed), f"two-{seed}"
    shells = [Shell(folder, output, name) for name in "ab"]
    time.sleep(draw.uniform(1.0, seconds))
    victim = draw.randrange(2)
    shells[victim].kill(whole=draw.random() < 0.5)
    time.sleep(draw.uniform(0.0, 5.0))
    shells[victim] = Shell(folder, output, "ab"[victim])
    for shell in shells:
        shell.ended_well()
    assert made(folder / output) == whole
    assert len(list((folder / output).glob("*/*/COMMITTED.json"))) == 4, "each stage once"
