"""Restarts in place and goodput with real trainings of two pods."""

from __future__ import annotations

import calendar
import contextlib
import os
import random
import signal
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.pods import CONTROL_VARIABLE, RENDEZVOUS_PORT
from tests.cluster.operators import kill_program, stages
from tests.cluster.tools import wait_until
from tests.cluster.trainings import STEPS, Trainings, check_end

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]
IN_PLACE = {"restart": "InPlace", "maxRestarts": 1000}
PARTS = (
    "productive",
    "lost",
    "queued",
    "scheduling",
    "starting",
    "checkpointing",
    "validating",
    "waitingForData",
    "recovering",
    "suspended",
    "other",
)
PAIRS = 10


def kill_rank(host: str) -> None:
    """SIGKILL to the rank of a pod, from this machine, which carries the nodes; launcher and standby processes live
    on.
    """
    wanted, killed = f"HOSTNAME={host}".encode(), 0
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or wanted not in (process / "environ").read_bytes().split(b"\0"):
                continue
            notes = [os.readlink(each) for each in (process / "fd").iterdir()]
        except OSError:  # it has ended
            continue
        if any(Path(note).name.startswith("beat-") for note in notes):
            os.kill(int(process.name), signal.SIGKILL)
            killed += 1
    assert killed == 1, f"{host} has {killed} ranks"


def require_sums(status: dict[str, Any], *, least_faults: int = 0) -> None:
    """The parts sum to the wall time, as the status and as its own times have it."""
    found, stage = status["goodput"], stages(status)["train"]
    total = sum(found.get(f"{part}Seconds", 0) for part in PARTS)
    assert total == found["wallSeconds"]
    assert total == pytest.approx(_seconds(stage["goodput"]["until"]) - _seconds(status["startTime"]), abs=1.0 + 2.0)
    rounds = stage.get("restartsInPlace", {}).get("total", 0)
    assert rounds + stage.get("restarts", 0) >= least_faults


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def rounds(trainings: Trainings, name: str) -> int:
    return stages(trainings.place.runs.status(name))["train"].get("restartsInPlace", {}).get("total", 0)


def test_killed_rank_restarts_in_the_living_pods(trainings: Trainings, undisturbed: dict[int, float]) -> None:
    name, runs = trainings.start("rank", policy=IN_PLACE), trainings.place.runs
    trainings.wait_for_checkpoint(name)
    pods = {pod["metadata"]["uid"] for pod in runs.pods(name)}
    kill_rank(f"{name}-train-1-1")
    status = runs.wait_for(name, "Complete", timeout_s=400)
    stage = stages(status)["train"]
    assert (stage["attempt"], stage.get("restarts", 0), stage["restartsInPlace"]["total"]) == (1, 0, 1)
    assert {pod["metadata"]["uid"] for pod in runs.pods(name)} <= pods
    assert len(trainings.names(name, "epochs")) == 2, "each round took a number of its own"
    check_end(trainings, name, undisturbed)
    require_sums(status, least_faults=1)
    assert status["goodput"].get("lostSeconds", 0) + status["goodput"].get("recoveringSeconds", 0) > 0
    assert {part["name"] for part in stage["goodput"]["startUp"]} >= {"imports", "rendezvous", "checkpoint"}


def first_step_after(trainings: Trainings, name: str, policy: dict[str, Any], kill: Any) -> float:
    """Seconds from a SIGKILL to the first step that is made again, by the progress in the log."""
    trainings.start(name, policy=policy, steps=30 * STEPS)
    trainings.wait_for_checkpoint(name)
    from tests.recipe.train.launchers import standbys  # with torch, which those who only collect this need not import

    if policy is IN_PLACE:  # a fault in the first seconds, before they have imported, is the rare one
        wait_until(lambda: standbys() == 2, "the standby processes")
    began = time.monotonic()
    epochs = len(trainings.names(name, "epochs"))
    kill(f"{name}-train-1-1")
    wait_until(lambda: len(trainings.names(name, "epochs")) > epochs, "the next gang", 300)
    saved = trainings.saved(name)
    wait_until(lambda: trainings.saved(name) > saved, "a checkpoint of the next gang", 300)
    seconds = time.monotonic() - began
    trainings.place.runs.kubectl("delete", "dihtrun", "-n", trainings.place.namespace, name)
    return seconds


def test_restart_in_place_takes_at_most_half_of_a_recreation(trainings: Trainings) -> None:
    ratios: list[float] = []
    for number in range(PAIRS):
        near = first_step_after(trainings, f"near-{number}", IN_PLACE, kill_rank)
        far = first_step_after(trainings, f"far-{number}", {"maxRestarts": 1000}, kill_program)
        print(f"pair {number}: {near:.1f} s in place, {far:.1f} s recreated")
        ratios.append(near / far)
    assert statistics.median(ratios) <= 0.5


def test_dead_launcher_0_recreates_the_gang(trainings: Trainings, undisturbed: dict[int, float]) -> None:
    name, runs = trainings.start("launcher", policy=IN_PLACE), trainings.place.runs
    trainings.wait_for_checkpoint(name)
    kill_program(f"{name}-train-1-0")
    status = runs.wait_for(name, "Complete", timeout_s=500)
    assert stages(status)["train"]["attempt"] == 2
    check_end(trainings, name, undisturbed)
    require_sums(status, least_faults=1)


def test_bytes_of_strangers_at_the_port_of_the_control_store_end_nothing(
    trainings: Trainings, undisturbed: dict[int, float]
) -> None:
    name, runs, rng = trainings.start("port", policy=IN_PLACE), trainings.place.runs, random.Random(37)
    trainings.wait_for_checkpoint(name)
    [address] = [
        pod["status"]["podIP"] for pod in runs.pods(name) if pod["metadata"]["name"].startswith(f"{name}-train-1-0")
    ]
    silent = []
    for _ in range(200):
        stranger = socket.create_connection((address, RENDEZVOUS_PORT), timeout=5)
        with contextlib.suppress(OSError):
            stranger.sendall(rng.randbytes(rng.randrange(1, 4000)))
        silent.append(stranger)
    kill_rank(f"{name}-train-1-1")
    status = runs.wait_for(name, "Complete", timeout_s=400)
    stage = stages(status)["train"]
    assert (stage["attempt"], stage.get("restarts", 0), stage["restartsInPlace"]["total"]) == (1, 0, 1)
    check_end(trainings, name, undisturbed)
    for stranger in silent:
        stranger.close()
    job = trainings.place.kubectl.json("get", "job", f"{name}-train-1", "-n", trainings.place.namespace)
    [token] = [
        each["value"]
        for each in job["spec"]["template"]["spec"]["containers"][0]["env"]
        if each["name"] == CONTROL_VARIABLE
    ]
    assert len(token) == 64
    logs = trainings.place.kubectl("logs", f"job/{name}-train-1", "-n", trainings.place.namespace)
    assert token not in f"{logs}{status}"
