"""A gang that hangs: real ranks over gloo, the watchdogs of their nodes, and what the verdict says of whom."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, Heartbeat
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.launcher import FLIGHT_RECORDER
from diht_k8s.stages.train.flight_recorder import FlightRecorder
from tests.ports import free_port
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import environment

PROGRAM = "tests.recipe.train.test_hangs"
LIMITS = HangLimits(min_seconds=4.0, first_steps=2, first_seconds=60.0)


def verdicts(folders: Sequence[Path], culprit: int, how: str, *, world: int) -> list[str]:
    """What the watchdog of each node says that saw the hang; all ranks are gone afterwards."""
    port = str(free_port())
    said: list[str] = []
    later = replace(LIMITS, min_seconds=12.0)  # of the culprit's own node: the others' shall see it first
    limits = [LIMITS, *(later for _ in folders[1:])]
    watchdogs = [Watchdog(folder, each, say=said.append) for folder, each in zip(folders, limits, strict=True)]
    with ExitStack() as stack:
        ranks, nowhere = [], stack.enter_context(open(os.devnull, "w"))
        for rank in range(world):
            variables = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
            process = fork_server.start(
                PROGRAM,
                ",".join(map(str, folders)),
                str(culprit),
                how,
                modules=(PROGRAM,),
                stderr=nowhere,
                variables=environment(**variables, **FLIGHT_RECORDER),
            )
            ranks.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for watchdog in watchdogs:
            stack.enter_context(watchdog)
        for process in ranks:
            process.wait(250)
    assert signal.SIGKILL in {-process.wait() for process in ranks}
    return [watchdog.verdict for watchdog in watchdogs if watchdog.verdict is not None]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("in backward", "rank 1 on node node-0 has not reached all_reduce 4; the other waits in it"),
        ("stopped", "rank 1 on node node-0 does not answer (stopped or dead); the other waits in all_reduce 4"),
    ],
)
def test_hang_names_rank_node_and_collective(how: str, words: str, tmp_path: Path) -> None:
    [verdict] = verdicts([tmp_path], 1, how, world=2)
    assert words in verdict


def test_rank_of_another_node_is_named(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    verdict, *_ = verdicts(folders, 3, "sleeps", world=4)
    assert "rank 3 on node node-1 has not reached all_reduce 4; the 3 others wait in it" in verdict


def in_backward() -> None:
    weight = torch.ones(4, requires_grad=True)
    weight.register_hook(lambda gradient: time.sleep(600))
    weight.sum().backward()


ACTIONS = {
    "sleeps": lambda: time.sleep(600),
    "in backward": in_backward,
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def main(places: str, culprit: str, how: str) -> None:
    folders = places.split(",")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    node = rank * len(folders) // world
    os.environ[FOLDER_VARIABLE] = folders[node]
    heartbeat = Heartbeat(rank)
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    side = dist.new_group(backend="gloo")
    assert not isinstance(side, int)
    FlightRecorder(rank, world, node=f"node-{node}")
    values = torch.ones(4)
    for step in range(6):
        heartbeat.step()
        dist.barrier(group=side)
        if step == 3 and rank == int(culprit):
            ACTIONS[how]()
        dist.all_reduce(values)
