"""A gang of `diht stage train` on this machine, each with one rank or more, that restarts in place, resizes or ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from diht_k8s.api.documents import dump
from diht_k8s.api.gangs import DECISION_VARIABLE, GangDecision
from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.runtime.in_place.rank_processes import STANDBY_VARIABLE
from tests.recipe.train.attempts import BATCH, TRAIN, ranks_of, start_stage
from tests.recipe.train.fork_server import Forked
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
    processes: list[subprocess.Popen[str] | Forked]
    stream: IO[str]
    """what launcher 0 prints."""
    variables: list[dict[str, str]]
    """environment of each launcher."""
    forked: bool
    lines: list[str] = field(default_factory=list)
    """of launcher 0 and rank 0."""
    times: list[tuple[float, Progress]] = field(default_factory=list)
    """when each line of progress came."""

    def follow(self, until: Callable[[Progress], bool]) -> bool:
        """Read what launcher 0 prints up to a line; False if it ends before."""
        for line in self.stream:
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

    def decide(self, *without: int) -> None:
        """What the operator writes: the nodes without which the gang goes on."""
        new = self.folder / "gang.new"
        new.write_text(GangDecision(without=without, at=time.time()).model_dump_json())
        new.rename(self.folder / "gang")

    def lose(self, node: int) -> None:
        """Kill a launcher and its ranks, as with their machine."""
        process = self.processes[node]
        for rank in ranks_of(process.pid):
            kill(rank)
        process.kill()
        process.wait()

    def replace(self, node: int) -> None:
        """A new launcher in the place of one that has ended."""
        with (self.folder / f"errors-{node}.txt").open("w") as errors, open(os.devnull, "w") as nowhere:
            self.processes[node] = start_stage(
                self.folder, forked=self.forked, stdout=nowhere, stderr=errors, variables=self.variables[node]
            )

    def rank(self, node: int) -> psutil.Process:
        """The first rank of a node."""
        return ranks_of(self.processes[node].pid)[0]

    def end(self) -> list[int]:
        """Wait for all; their exit codes."""
        self.follow(lambda line: False)
        codes = [process.wait() for process in self.processes]
        self.stream.close()
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


def start(
    folder: Path,
    *,
    forked: bool = False,
    nodes: int = 2,
    ranks: int = 1,
    elastic: bool = False,
    own: Sequence[dict[str, str]] = (),
    **variables: str,
) -> Launchers:
    """Start the launchers, in new interpreters or in forks.

    Args:
        folder: of the run document.
        forked: in forks.
        nodes: number of launchers.
        ranks: of each node.
        elastic: whether the gang goes on as nodes go and come (`Launchers.decide`).
        own: variables of each node.
        variables: of all.
    """
    port, processes, environments, (output, end) = free_port(), [], [], os.pipe()
    decision = {DECISION_VARIABLE: str(folder / "gang")} if elastic else {}
    for node in range(nodes):
        place = {name: str(nodes) for name in ("DIHT_NUM_NODES", "DIHT_WORKERS")}
        place |= {name: str(node) for name in ("DIHT_NODE_RANK", "DIHT_WORKER")}
        rendezvous = {"DIHT_MASTER": "localhost", "DIHT_MASTER_PORT": str(port), "DIHT_PROCESSES": str(ranks)}
        cause = {"DIHT_TERMINATION_LOG": str(folder / f"cause-{node}.json")}
        mine = {**place, **rendezvous, **cause, **decision, **variables, **(own[node] if own else {})}
        environments.append(environment(**{"DIHT_PROGRESS_SECONDS": "0", **mine}))
        with (folder / f"errors-{node}.txt").open("w") as errors, open(os.devnull, "w") as nowhere:
            stdout = end if node == 0 else nowhere
            processes.append(
                start_stage(folder, forked=forked, stdout=stdout, stderr=errors, variables=environments[node])
            )
    os.close(end)
    return Launchers(folder, processes, os.fdopen(output), environments, forked)


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
