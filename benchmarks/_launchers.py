"""Many launchers with stub ranks on this machine: real processes and a real control store, ranks that only sleep."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed  # imported before the fork, so that all launchers share its memory

from diht_k8s.api.errors import DihtError
from diht_k8s.recipe.runtime.gang import Gang
from diht_k8s.recipe.runtime.in_place.launcher import free_port, launch_in_place
from diht_k8s.recipe.runtime.signals import StopFlag

STUB = 'touch "$STUB/$TORCHELASTIC_RUN_ID-$RANK-$$"; exec sleep 600'
"""A rank that leaves a file named by its round, its rank and its process."""


@dataclass(frozen=True)
class Launchers:
    """Launchers of one gang, with one stub rank each."""

    folder: Path
    processes: Sequence[BaseProcess]

    def ranks(self, round_: int) -> dict[int, int]:
        """Process ids of the ranks that began a round, by rank."""
        names = [path.name.split("-") for path in self.folder.glob(f"stub-{round_}-*")]
        return {int(rank): int(process) for _, _, rank, process in names}

    def wait_for_round(self, round_: int, timeout_s: float) -> float:
        """Wait until all ranks have begun a round; seconds that it took."""
        began = time.monotonic()
        while len(self.ranks(round_)) < len(self.processes):
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"{len(self.ranks(round_))} of {len(self.processes)} ranks began round {round_}")
            time.sleep(0.01)
        return time.monotonic() - began

    def kill_rank(self, round_: int, rank: int) -> None:
        """SIGKILL to the stub rank."""
        os.kill(self.ranks(round_)[rank], signal.SIGKILL)

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
def launchers(nodes: int, folder: Path) -> Iterator[Launchers]:
    """Start a gang; whatever lives at the end of the block is killed."""
    assert torch.distributed.is_available()
    folder.mkdir(parents=True, exist_ok=True)
    fork, port = multiprocessing.get_context("fork"), free_port()
    processes = [fork.Process(target=_launch, args=(node, nodes, port, folder)) for node in range(nodes)]
    for process in processes:
        process.start()
    found = Launchers(folder, processes)
    try:
        yield found
    finally:
        for process in processes:
            process.kill()
            process.join()
        for round_ in range(1, 10):
            for rank in found.ranks(round_).values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)


def _launch(node: int, nodes: int, port: int, folder: Path) -> None:
    os.environ["STUB"] = str(folder)
    gang = Gang(nodes=nodes, node_rank=node, master="localhost", port=port)
    try:
        launch_in_place(gang, ["sh", "-c", STUB], run_id="stub", stop=StopFlag().install(), say=lambda text: None)
    except DihtError as error:
        (folder / f"end-{node}").write_text(str(error))
        sys.exit(int(error.exit_code))
