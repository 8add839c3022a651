"""`diht stage train` by its real launcher on all cards: killed, stopped, hung, and resumed to the undisturbed end.

Two nodes are two launchers on this machine, each with half of the cards.
"""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import time
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
from tests.recipe.train.launchers import Launchers, kill, start, write_run
from tests.recipe.train.small_run import ON_DEVICES, Job, document, environment, lines, make_data, train_in_ranks

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"cpu": 40, "cuda": 300}
"""A card makes a step of this model in some milliseconds, and a test must have the time to act."""
UNSAVED: dict[str, Any] = {"checkpoint": {"everySamples": 10**9}}
"""The watchdog waits for a rank that takes a checkpoint, so one that hangs shall not be taking one."""
SOON_S = 90
"""Within this time a gang ends that has lost a rank, although a collective may take 120: gloo notices at once, and
where NCCL does not (over NVLink nobody closes a connection) the watchdog does.
"""
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
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process that nothing disturbs (see `train_in_ranks`)."""
    place = tmp_path_factory.mktemp("undisturbed")
    job = Job(document(place, data=folder, **settings(processesPerNode=1)))
    found = train_in_ranks(1, {"whole": job}, place / "ranks", program=ON_DEVICES, **devices().variables)["whole"]
    assert found["error"] is None
    return found


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
    attempts: dict[str, Attempt], folder: Path, undisturbed: dict[str, Any]
) -> None:
    assert attempts["left alone"].code == 0, attempts["left alone"].errors
    assert attempts["again"].output.startswith("train: cached")
    assert_as_undisturbed(folder, undisturbed)


def assert_as_undisturbed(folder: Path, undisturbed: dict[str, Any]) -> None:
    """The training in a folder has ended as one process's did that nothing disturbed."""
    found = load_file(folder / "out" / "runs/latest/train" / "model" / "open_clip_model.safetensors")
    wanted = {
        key.removeprefix("clip."): value
        for key, value in undisturbed["weights"].items()
        if key.startswith("clip.") and "|" not in key
    }
    assert found.keys() == wanted.keys()
    off = {key: float((found[key] - value.reshape(found[key].shape)).abs().mean()) for key, value in wanted.items()}
    assert max(off.values()) <= 1e-3, off
    last = lines(folder.parent, folder.name)[-1]
    assert last["step"] == STEPS[devices().kind]
    assert last["loss"] == pytest.approx(undisturbed["losses"][-1][0], abs=5e-2)


@pytest.mark.two_gpus
def test_gang_when_a_rank_of_one_node_is_killed_then_the_other_ends_soon_with_75_and_both_resume(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    gang = two_nodes(tmp_path, restart="Recreate")
    assert gang.at_step(26), gang.errors(0)
    kill(gang.rank(1))
    killed = time.monotonic()
    assert gang.end() == [75, 1], gang.errors(0) + gang.errors(1)
    assert time.monotonic() - killed < SOON_S
    again = two_nodes(tmp_path, restart="Recreate")
    assert again.end() == [0, 0], again.errors(0) + again.errors(1)
    assert "train: resuming after step" in "".join(again.lines)
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.two_gpus
def test_gang_when_it_restarts_in_place_then_the_ranks_of_both_nodes_go_on_in_a_second_round(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    gang = two_nodes(tmp_path, restart="InPlace")
    assert gang.at_step(26), gang.errors(0)
    kill(gang.rank(1))
    assert gang.end() == [0, 0], gang.errors(0) + gang.errors(1)
    rounds = [line.rounds for _, line in gang.times if line.rounds is not None]
    first_of_1 = devices().all // 2
    assert (rounds[-1].round, rounds[-1].node, rounds[-1].message) == (
        2,
        1,
        f"rank {first_of_1} was killed by signal 9: see its log",
    )
    assert "".join(gang.lines).count("train: resuming after step") == 1
    assert_as_undisturbed(tmp_path, undisturbed)


def two_nodes(folder: Path, *, restart: str) -> Launchers:
    """Start a training of two nodes, or start it again."""
    if not (folder / "run.json").exists():
        make_data(folder)
        # not every few milliseconds, because the watchdog waits for a rank that takes one
        seldom = {"checkpoint": {"everySamples": 20 * BATCH, "keep": 2}}
        write_run(folder, restart, **settings(processesPerNode=devices().all // 2, **seldom))
    own, on_cpu = [devices().of_node(node) for node in range(2)], devices().kind == "cpu"
    variables = {**devices().variables, **({} if on_cpu else WATCH)}
    return start(folder, forked=on_cpu, ranks=devices().all // 2, own=own, **variables)


@pytest.mark.two_gpus
def test_hang_when_a_rank_is_frozen_then_it_is_named_with_stacks_and_75(tmp_path: Path) -> None:
    prepared(tmp_path, **UNSAVED)

    def freeze(launcher: int) -> None:
        ranks_of(launcher)[1].send_signal(signal.SIGSTOP)

    frozen = attempt(tmp_path, at_step=10, act=freeze, **WATCH, **devices().variables)
    assert frozen.code == 75, frozen.errors
    last = frozen.errors.strip().splitlines()[-1]
    assert last.startswith("diht: no step for ")
    assert f"rank 1 on node {socket.gethostname()} does not answer (stopped or dead)" in last
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
        env=environment(**devices().variables),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "out" / "runs/latest/train" / "COMMITTED.json").read_text())["summary"]
    assert (summary["steps"], summary["processes"]) == (steps, devices().all)
    weights = load_file(tmp_path / "out" / "runs/latest/train" / "model" / "open_clip_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
