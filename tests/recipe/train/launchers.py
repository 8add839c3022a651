"""A gang of two `diht stage train` on this machine, each with one rank, that restarts in place."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from diht_k8s.api.documents import dump
from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.recipe.runtime.in_place.standby import STANDBY_VARIABLE
from tests.recipe.train.attempts import BATCH, TRAIN, ranks_of
from tests.recipe.train.small_run import document, environment, free_port

GANG = {**TRAIN, "processesPerNode": 1, "numNodes": 2}


def write_run(folder: Path, restart: str = "InPlace", **train: Any) -> None:
    """The run document, over what `make_data(folder)` wrote."""
    run = document(folder, **{**GANG, **train})
    policy = run.spec.failure_policy.model_copy(update={"restart": restart})
    spec = run.spec.model_copy(update={"failure_policy": policy})
    (folder / "run.json").write_text(dump(run.model_copy(update={"spec": spec})))


@dataclass
class Launchers:
    """The running gang."""

    folder: Path
    processes: list[subprocess.Popen[str]]
    lines: list[str] = field(default_factory=list)
    """of launcher 0 and rank 0."""
    times: list[tuple[float, Progress]] = field(default_factory=list)
    """when each line of progress came."""

    def follow(self, until: Callable[[Progress], bool]) -> bool:
        """Read what launcher 0 prints up to a line; False if it ends before."""
        stream = self.processes[0].stdout
        assert stream is not None
        for line in stream:
            self.lines.append(line)
            progress = parse_progress(line)
            if progress is not None:
                self.times.append((time.monotonic(), progress))
                if until(progress):
                    return True
        return False

    def at_step(self, step: int, round_: int = 1) -> bool:
        """Read up to the first line of a round that has made a step."""
        return self.follow(
            lambda line: line.done >= step * BATCH and (1 if line.rounds is None else line.rounds.round) >= round_
        )

    def rank(self, node: int) -> psutil.Process:
        """The rank of a node."""
        return ranks_of(self.processes[node].pid)[0]

    def end(self) -> list[int]:
        """Wait for both; their exit codes."""
        self.follow(lambda line: False)
        codes = [process.wait() for process in self.processes]
        assert self.processes[0].stdout is not None
        self.processes[0].stdout.close()
        return codes

    def kill(self) -> None:
        """Kill ranks and launchers."""
        for process in self.processes:
            for rank in ranks_of(process.pid):
                kill(rank)
            process.kill()
        self.end()

    def errors(self, node: int) -> str:
        """What a launcher and its rank said on stderr."""
        return (self.folder / f"errors-{node}.txt").read_text()


def start(folder: Path, **variables: str) -> Launchers:
    """Start both launchers."""
    port, processes = free_port(), []
    for node in range(2):
        place = {"DIHT_NUM_NODES": "2", "DIHT_NODE_RANK": str(node), "DIHT_WORKER": str(node), "DIHT_WORKERS": "2"}
        rendezvous = {"DIHT_MASTER": "localhost", "DIHT_MASTER_PORT": str(port), "DIHT_PROCESSES": "1"}
        cause = {"DIHT_TERMINATION_LOG": str(folder / f"cause-{node}.json")}
        with (folder / f"errors-{node}.txt").open("w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", str(folder / "run.json")],
                    stdout=subprocess.PIPE if node == 0 else subprocess.DEVNULL,
                    stderr=errors,
                    text=True,
                    env=environment(**{"DIHT_PROGRESS_SECONDS": "0", **place, **rendezvous, **cause, **variables}),
                )
            )
    return Launchers(folder, processes)


def standbys() -> int:
    """Processes of this machine that have imported what a rank needs and wait to be told their place."""
    waiting = f"{STANDBY_VARIABLE}=1".encode()
    found = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if process.name.isdigit() and waiting in (process / "environ").read_bytes().split(b"\0"):
                found += "pipe_read" in (process / "wchan").read_text()
    return found


def kill(process: psutil.Process) -> None:
    """SIGKILL, as the kernel sends it."""
    process.send_signal(signal.SIGKILL)
