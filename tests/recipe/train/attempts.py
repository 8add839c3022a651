"""`diht stage train` as a process that a test kills, stops or lets end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from safetensors.torch import load

from diht_k8s.api.reports import parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.hangs.heartbeat import RankActivity, RankBeat, read_beats
from tests.folders import located
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import (
    Job,
    document,
    environment,
    make_data,
    train_in_ranks,
)

STEPS, FEW_STEPS, BATCH = 45, 25, 16
"""Of a training that is disturbed often, and once."""
SETTLE_S = 1.0
"""After this time a rank waits for one that is frozen."""

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


def start_stage(
    folder: Path, *, forked: bool, stdout: int | IO[Any], stderr: IO[Any], variables: dict[str, str]
) -> subprocess.Popen[str] | fork_server.Forked:
    """Start the stage on the folder's `run.json`, in a new interpreter or in a fork, whose ranks are forks as well."""
    run = str(folder / "run.json")
    if forked:
        program = "tests.recipe.train.forked_stage"
        return fork_server.start(program, run, variables=variables, stdout=stdout, stderr=stderr)
    command = [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", run]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, env=variables)


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The ranks below a launcher that have begun, in rank order; standby processes, which note no steps, are left
    out."""
    children = psutil.Process(launcher).children(recursive=True)
    ranks = [(note, child) for child in children if (note := _note_of(child)) is not None]
    return [child for _, child in sorted(ranks, key=lambda each: each[0])]


def _note_of(process: psutil.Process) -> int | None:
    """The rank whose steps a process notes; None for others, and for loader workers, which have the rank's files."""
    with contextlib.suppress(psutil.NoSuchProcess):
        beat = _beat_of(process)
        return None if beat is None else beat.rank
    return None


def _beat_of(process: psutil.Process) -> RankBeat | None:
    """The newest note of a process on its steps, if it is a rank."""
    for path in (Path(file.path) for file in process.open_files()):
        if path.name.startswith("beat-"):
            return next((beat for beat in read_beats(path.parent) if beat.pid == process.pid), None)
    return None


def freeze(rank: psutil.Process, other: psutil.Process) -> None:
    """Stop a rank in the middle of a step, in which the other one waits for it.

    Nothing but steps is timed: while one of them writes a checkpoint, the watchdog would wait for ever.
    """
    while True:
        rank.suspend()
        if _in_step(rank) and _in_step(other):
            time.sleep(SETTLE_S)
            if _in_step(other):
                return
        rank.resume()
        time.sleep(0.01)


def _in_step(rank: psutil.Process) -> bool:
    beat = _beat_of(rank)
    assert beat is not None, "the rank has ended"
    return beat.doing is RankActivity.STEP


def kill_all(launcher: int) -> None:
    for process in [*ranks_of(launcher), psutil.Process(launcher)]:
        process.send_signal(signal.SIGKILL)


def attempt(
    folder: Path,
    *,
    at_step: int | None = None,
    act: Callable[[int], object] = lambda launcher: None,
    forked: bool = False,
    **variables: str,
) -> Attempt:
    """Start the stage; once it reports a step, act on the launcher's process id."""
    output, end = os.pipe()
    with (folder / "errors.txt").open("w+") as errors, os.fdopen(output) as stream:
        variables = environment(**{"DIHT_PROGRESS_SECONDS": "0", **variables})
        launcher = start_stage(folder, forked=forked, stdout=end, stderr=errors, variables=variables)
        os.close(end)
        lines, acted = [], False
        for line in stream:
            lines.append(line)
            progress = parse_progress(line)
            if at_step is not None and not acted and progress is not None and progress.done >= at_step * BATCH:
                act(launcher.pid)
                acted = True
        code = launcher.wait()
        errors.seek(0)
        return Attempt(code, "".join(lines), errors.read(), newest_marker(folder))


def newest_marker(folder: Path) -> dict[str, Any] | None:
    markers = sorted((folder / "out" / "runs/latest/train" / "checkpoints").glob("*/COMMITTED.json"))
    return json.loads(markers[-1].read_text()) if markers else None


@functools.cache
def undisturbed_training(steps: int = STEPS) -> dict[str, Any]:
    """How the training ends that nothing disturbs (see `train_in_ranks`); done once for all tests that compare with
    it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        run = document(folder, **TRAIN | {"samples": steps * BATCH})
        return train_in_ranks(2, {"whole": Job(run)}, folder / "ranks")["whole"]


def different_weights(output: str | Path, steps: int = STEPS, storage: Storage | None = None) -> list[str]:
    """Names of the weights that a training has exported and that are not bit-equal to the undisturbed one's."""
    storage = storage or Storage()
    layout = located(output, storage)
    towers = load(storage.read_bytes(f"{layout.model}/open_clip_model.safetensors"))
    heads = load(storage.read_bytes(f"{layout.stage(Stage.TRAIN)}/concept_heads.safetensors"))
    found = {**{f"clip.{key}": value for key, value in towers.items()}, **heads}
    weights = undisturbed_training(steps)["weights"]
    expected = {key: value for key, value in weights.items() if "|" not in key and key != "adam_step"}
    assert found.keys() == expected.keys()
    return [key for key, value in expected.items() if not torch.equal(found[key], value.reshape(found[key].shape))]
