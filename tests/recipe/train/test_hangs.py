"""A gang that hangs: real ranks over gloo, the watchdogs of their nodes, and what the verdict says of whom."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.launcher import FLIGHT_RECORDER
from tests.ports import free_port
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import environment

PROGRAM = "tests.recipe.train.hanging_rank"
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
