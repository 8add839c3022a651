"""Real launchers and a real control store; ranks only sleep."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed  # imported before the fork, so that all launchers share its memory

from diht_k8s.api.errors import DihtError
from diht_k8s.api.gangs import GangDecision
from diht_k8s.runtime.in_place.launcher import launch_in_place
from diht_k8s.runtime.preflight import Gang
from diht_k8s.runtime.signals import StopFlag
from tests.ports import free_port

STUB = 'touch "$STUB/$TORCHELASTIC_RUN_ID-$RANK-$$"; exec sleep 600'
"""A rank that leaves a file named by its round, its rank and its process."""


@dataclass(frozen=True)
class Launchers:
    """Launchers of one gang, with one stub rank each."""

    folder: Path
    processes: list[BaseProcess]
    port: int
    rank: str
    elastic: bool

    def ranks(self, round_: int) -> dict[int, int]:
        """Process ids of the ranks that began a round, by rank."""
        names = [path.name.split("-") for path in self.folder.glob(f"stub-{round_}-*")]
        return {int(rank): int(process) for _, _, rank, process in names}

    def wait_for_round(self, round_: int, timeout_s: float, *, ranks: int | None = None) -> float:
        """Wait until all ranks have begun a round, or this many; seconds that it took."""
        began, ranks = time.monotonic(), ranks or len(self.processes)
        while len(self.ranks(round_)) < ranks:
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"{len(self.ranks(round_))} of {ranks} ranks began round {round_}")
            time.sleep(0.01)
        return time.monotonic() - began

    def kill_rank(self, round_: int, rank: int) -> None:
        """SIGKILL to the stub rank."""
        os.kill(self.ranks(round_)[rank], signal.SIGKILL)

    def decide(self, *without: int) -> None:
        """What the operator writes: the nodes without which an elastic gang goes on."""
        new = self.folder / "gang.new"
        new.write_text(GangDecision(without=without).model_dump_json())
        new.rename(self.folder / "gang")

    def start(self, node: int) -> None:
        """Start a launcher, as the only one or in the place of another."""
        fork, nodes = multiprocessing.get_context("fork"), len(self.processes)
        decision = self.folder / "gang" if self.elastic else None
        gang = Gang(nodes=nodes, node_rank=node, master="localhost", port=self.port, decision=decision)
        self.processes[node] = fork.Process(target=_launch, args=(gang, self.rank, self.folder))
        self.processes[node].start()

    def signal(self, node: int, number: signal.Signals) -> None:
        """A signal to a launcher."""
        process = self.processes[node].pid
        assert process is not None
        os.kill(process, number)

    def codes(self, timeout_s: float) -> list[int | None]:
        """Exit codes of the launchers once they have ended; None for one that has not."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]


@contextlib.contextmanager
def launchers(nodes: int, folder: Path, *, elastic: bool = False, rank: str = STUB) -> Iterator[Launchers]:
    """Start a gang; whatever lives at the end of the block is killed.

    Args:
        nodes: number of launchers.
        folder: of their files.
        elastic: whether they go on as nodes go and come.
        rank: what a rank does, in the shell.
    """
    assert torch.distributed.is_available()
    folder.mkdir(parents=True, exist_ok=True)
    fork = multiprocessing.get_context("fork")
    found = Launchers(folder, [fork.Process() for _ in range(nodes)], free_port(), rank, elastic)
    started = list[BaseProcess]()
    try:
        for node in range(nodes):
            found.start(node)
            started.append(found.processes[node])
        yield found
    finally:
        for process in {*started, *found.processes}:
            process.kill()
            process.join()
        for round_ in range(1, 10):
            for rank_process in found.ranks(round_).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank_process, signal.SIGKILL)


def _launch(gang: Gang, rank: str, folder: Path) -> None:
    os.environ["STUB"] = str(folder)
    try:
        launch_in_place(gang, ["sh", "-c", rank], run_id="stub", stop=StopFlag().install(), say=lambda text: None)
    except DihtError as error:
        (folder / f"end-{gang.node_rank}").write_text(str(error))
        sys.exit(int(error.exit_code))
