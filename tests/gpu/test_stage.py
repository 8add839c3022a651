"""`diht stage train` by its real launcher on all cards: killed, stopped, hung, and resumed to the undisturbed end."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from diht_k8s.api.documents import dump
from tests.gpu.devices import devices
from tests.recipe.train.attempts import BATCH, Attempt, attempt, kill_all, ranks_of
from tests.recipe.train.small_run import RANK_PROGRAM, Job, document, environment, lines, make_data, train_in_ranks

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"cpu": 60, "cuda": 300}
"""A card makes a step of this model in some milliseconds, and a test must have the time to act."""
UNSAVED: dict[str, Any] = {"checkpoint": {"everySamples": 10**9}}
"""The watchdog waits for a rank that takes a checkpoint, so one that hangs shall not be taking one."""
WATCH = {"DIHT_WATCHDOG_SECONDS": "6", "DIHT_WATCHDOG_STEPS": "3"}
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]


def settings(**more: Any) -> dict[str, Any]:
    steps = STEPS[devices().kind]
    return {
        "samples": steps * BATCH,
        "zeroStage": 1,
        "processesPerNode": devices().all,
        "collectiveTimeoutSeconds": 120,
        "checkpoint": {"everySamples": 5 * BATCH, "keep": 2},
        # small, because sums in another order grow apart over hundreds of steps
        "optimizer": {"lr": 1e-4, "eps": 1e-6},
        **more,
    }


def prepared(folder: Path, **more: Any) -> Path:
    make_data(folder)
    (folder / "run.json").write_text(dump(document(folder, **settings(**more))))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def attempts(folder: Path) -> dict[str, Attempt]:
    """One training, killed, stopped and left alone."""
    disturb: Callable[..., Attempt] = functools.partial(attempt, folder, **devices().variables)
    return {
        "killed": disturb(at_step=13, act=kill_all),
        "stopped": disturb(at_step=26, act=lambda launcher: psutil.Process(launcher).terminate()),
        "left alone": disturb(),
        "again": disturb(),
    }


def test_killed_when_all_die_then_the_next_attempt_resumes_from_a_whole_checkpoint(
    attempts: dict[str, Attempt],
) -> None:
    killed = attempts["killed"]
    assert killed.code == -signal.SIGKILL, killed.errors
    assert killed.newest is not None
    assert len(killed.newest["parts"]) == devices().all
    assert f"resuming after step {killed.newest['cursor']['step']} of" in attempts["stopped"].output


def test_stopped_when_by_sigterm_then_saved_and_143_and_resumed(attempts: dict[str, Attempt]) -> None:
    stopped = attempts["stopped"]
    assert stopped.code == 143, stopped.errors
    assert stopped.errors.strip().splitlines()[-1].startswith("diht: stopped on request")
    assert stopped.newest is not None
    assert 26 <= stopped.newest["cursor"]["step"] < STEPS[devices().kind]
    assert f"resuming after step {stopped.newest['cursor']['step']} of" in attempts["left alone"].output


def test_finished_when_disturbed_before_then_the_weights_are_those_of_one_undisturbed_process(
    attempts: dict[str, Attempt], folder: Path, tmp_path: Path
) -> None:
    assert attempts["left alone"].code == 0, attempts["left alone"].errors
    assert attempts["again"].output.startswith("train: cached")
    job = Job(document(tmp_path, data=folder, **settings(processesPerNode=1)))
    program = RANK_PROGRAM.parents[2] / "gpu" / "rank.py"
    undisturbed = train_in_ranks(1, {"whole": job}, tmp_path / "ranks", program=program, **devices().variables)["whole"]
    assert undisturbed["error"] is None
    found = load_file(folder / "out" / "runs/latest/train" / "model" / "open_clip_model.safetensors")
    wanted = {
        key.removeprefix("clip."): value for key, value in undisturbed["weights"].items() if key.startswith("clip.") and "|" not in key
    }  # fmt: skip
    assert found.keys() == wanted.keys()
    off = {key: float((found[key] - value.reshape(found[key].shape)).abs().mean()) for key, value in wanted.items()}
    assert max(off.values()) <= 1e-3, off
    last = lines(folder.parent, folder.name)[-1]
    assert last["step"] == STEPS[devices().kind]
    assert last["loss"] == pytest.approx(undisturbed["losses"][-1][0], abs=5e-2)


@pytest.mark.two_gpus
def test_hang_when_a_rank_is_frozen_then_it_is_named_with_stacks_and_75(tmp_path: Path) -> None:
    prepared(tmp_path, **UNSAVED)

    def freeze(launcher: int) -> None:
        ranks_of(launcher)[1].send_signal(signal.SIGSTOP)

    frozen = attempt(tmp_path, at_step=10, act=freeze, **WATCH, **devices().variables)
    assert frozen.code == 75, frozen.errors
    last = frozen.errors.strip().splitlines()[-1]
    assert last.startswith("diht: no step for ")
    assert "rank 1 does not answer (stopped or dead)" in last
    assert "stacks of rank 0" in frozen.errors


@pytest.mark.two_gpus
def test_hang_when_the_others_wait_in_a_collective_then_the_missing_rank_is_named_and_75(tmp_path: Path) -> None:
    prepared(tmp_path, **UNSAVED)
    path = f"{Path(__file__).with_name('hanging')}:{ROOT}"
    hung = attempt(tmp_path, **{**devices().variables, **WATCH, "PYTHONPATH": path})
    assert hung.code == 75, hung.errors
    last = hung.errors.strip().splitlines()[-1]
    assert last.startswith("diht: no step for ")
    assert "rank 1" in last, last
    assert "stacks of rank 0" in hung.errors


def test_local_run_when_on_all_cards_then_committed_with_as_many_processes(tmp_path: Path) -> None:
    steps = 10
    prepared(tmp_path, samples=steps * BATCH, precision="bf16")
    ended = subprocess.run(
        [sys.executable, "-m", "diht_k8s.cli", "run", str(tmp_path / "run.json")],
        env=environment(**devices().variables), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "out" / "runs/latest/train" / "COMMITTED.json").read_text())["summary"]
    assert (summary["steps"], summary["processes"]) == (steps, devices().all)
    weights = load_file(tmp_path / "out" / "runs/latest/train" / "model" / "open_clip_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
