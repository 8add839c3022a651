"""`diht stage train` as a process that a test kills, stops or lets end."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from diht_k8s.api.reports import parse_progress
from tests.recipe.train.small_run import (
    Job,
    document,
    environment,
    make_data,
    train_in_ranks,
)

STEPS, BATCH = 60, 16

TRAIN: dict[str, Any] = {
    "samples": STEPS * BATCH,
    "zeroStage": 1,
    "processesPerNode": 2,
    "checkpoint": {"everySamples": 5 * BATCH, "keep": 2},
}


@dataclass(frozen=True)
class Attempt:
    """How one `diht stage train` ended."""

    code: int
    output: str
    errors: str
    newest: dict[str, Any] | None
    """the marker of the newest committed checkpoint."""


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The ranks below a launcher that have begun, in rank order; standby processes, which note no steps, are left out."""
    children = psutil.Process(launcher).children(recursive=True)
    ranks = [(note, child) for child in children if (note := _note_of(child)) is not None]
    return [child for _, child in sorted(ranks, key=lambda each: each[0])]


def _note_of(process: psutil.Process) -> str | None:
    """Name of the file in which a rank notes its steps; None for other processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if "diht_k8s.recipe.train.loop" in process.cmdline():
            names = (Path(file.path).name for file in process.open_files())
            return next((name for name in names if name.startswith("beat-")), None)
    return None


def kill_all(launcher: int) -> None:
    for process in [*ranks_of(launcher), psutil.Process(launcher)]:
        process.send_signal(signal.SIGKILL)


def attempt(
    folder: Path,
    *,
    at_step: int | None = None,
    act: Callable[[int], object] = lambda launcher: None,
    **variables: str,
) -> Attempt:
    """Start the stage; once it reports a step, act on the launcher's process id."""
    with (folder / "errors.txt").open("w+") as errors, subprocess.Popen(
        [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", str(folder / "run.json")],
        stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(DIHT_PROGRESS_SECONDS="0", **variables),
    ) as launcher:  # fmt: skip
        assert launcher.stdout is not None
        lines, acted = [], False
        for line in launcher.stdout:
            lines.append(line)
            progress = parse_progress(line)
            if at_step is not None and not acted and progress is not None and progress.done >= at_step * BATCH:
                act(launcher.pid)
                acted = True
        code = launcher.wait()
        errors.seek(0)
        return Attempt(code, "".join(lines), errors.read(), newest_marker(folder))


def newest_marker(folder: Path) -> dict[str, Any] | None:
    markers = sorted((folder / "out" / "train" / "checkpoints").glob("*/COMMITTED.json"))
    return json.loads(markers[-1].read_text()) if markers else None


@functools.cache
def undisturbed_training() -> dict[str, Any]:
    """How the training ends that nothing disturbs (see `train_in_ranks`); done once for all tests that compare with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        return train_in_ranks(2, {"whole": Job(document(folder, **TRAIN))}, folder / "ranks")["whole"]
