"""The processes of a node's ranks in one round: start, watch, end and reap; and standbys, which are ranks of the next
one.

Importing torch, DeepSpeed and open_clip is most of what a rank does before its first step. A standby has imported
everything and waits to be told its place. It holds memory of its imports only: no device, no data, no connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import RetryableError
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, notes_folder
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.signals import PARENT_VARIABLE, named_parent

REAP_S: Final = 20.0
"""A killed process that is not gone after this time hangs in its driver or its storage."""


@dataclass(frozen=True)
class RankFailure:
    """Failure of a rank, with the fields of torch's records."""

    exitcode: int
    """negative for a signal."""
    timestamp: int
    error_file_data: Any


class RankProcesses:
    """This node's ranks, from their start until they are reaped."""

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[dict[str, str]],
        *,
        standbys: Standbys | None,
        say: Callable[[str], None],
    ) -> None:
        """Start them.

        Args:
            command: program and arguments.
            environments: what each rank has beside this process's environment; `RANK` names it.
            standbys: processes that have begun already; None starts new ones.
            say: prints stacks of ranks that hang.
        """
        self._ranks = [int(environment["RANK"]) for environment in environments]
        self._ended_at: dict[int, int] = {}
        with contextlib.ExitStack() as stack:
            self._errors = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diht-errors-")))
            folder = stack.enter_context(notes_folder())
            self.watchdog = stack.enter_context(Watchdog(folder, HangLimits.from_environment(), say=say))
            stack.enter_context(named_parent())
            self._processes: list[subprocess.Popen[Any]] = []
            for rank, environment in zip(self._ranks, environments, strict=True):
                own = {
                    **environment,
                    FOLDER_VARIABLE: str(folder),
                    "TORCHELASTIC_ERROR_FILE": str(self._error(rank)),
                }
                process = standbys.take(own) if standbys is not None else None
                if process is None:
                    process = subprocess.Popen(command, env={**os.environ, **own})  # noqa: S603 (a list of ours, no shell)
                self._processes.append(process)
            self._stack = stack.pop_all()

    def _error(self, rank: int) -> Path:
        return self._errors / f"{rank:05d}.json"

    def well(self) -> bool:
        """Whether all have ended with 0."""
        return all(process.poll() == 0 for process in self._processes)

    def failures(self) -> dict[int, RankFailure]:
        """The ranks that have ended otherwise, by rank."""
        found: dict[int, RankFailure] = {}
        for rank, process in zip(self._ranks, self._processes, strict=True):
            if code := process.poll():
                at = self._ended_at.setdefault(rank, int(time.time()))
                found[rank] = RankFailure(code, at, self._left(rank))
        return found

    def _left(self, rank: int) -> Any:
        try:
            return json.loads(self._error(rank).read_bytes())
        except (OSError, ValueError):
            return None

    def living(self) -> bool:
        """Whether any has not ended."""
        return any(process.poll() is None for process in self._processes)

    def training(self) -> bool:
        """Whether all have made a step."""
        beats = self.watchdog.beats()
        return len(beats) == len(self._ranks) and all(beat.step > 1 for beat in beats)

    def stop(self) -> None:
        """Ask those that run to end."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Kill those that run and reap all.

        Raises:
            RetryableError: one does not end.
        """
        try:
            for process in self._processes:
                process.kill()
            deadline = time.monotonic() + REAP_S
            for rank, process in zip(self._ranks, self._processes, strict=True):
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise RetryableError(
                        f"rank {rank} (process {process.pid}) does not end {REAP_S:.0f} s after SIGKILL: see its node"
                    ) from None
        finally:
            self._stack.close()


STANDBY_VARIABLE: Final = "DIHT_STANDBY"


def wait_for_assignment(prepare: Callable[[], object]) -> None:
    """In a standby: prepare, then take the environment of a rank from stdin; ends the process if none comes.

    Does nothing in a process that was started as a rank.
    """
    if os.environ.pop(STANDBY_VARIABLE, None) is None:
        return
    prepare()
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    os.environ.update(json.loads(line))


class Standbys:
    """The standby processes of a launcher, one for each rank of its node."""

    def __init__(self, command: Sequence[str], number: int) -> None:
        """Prepare; none is started yet.

        Args:
            command: program and arguments of a rank, which calls `wait_for_assignment`.
            number: of ranks.
        """
        self._command, self._number = command, number
        self._waiting: list[subprocess.Popen[str]] = []

    def fill(self) -> None:
        """Start what is missing; one that ended by itself is replaced."""
        for process in [each for each in self._waiting if each.poll() is not None]:
            self._waiting.remove(process)
            _end(process)
        environment = {**os.environ, STANDBY_VARIABLE: "1", PARENT_VARIABLE: str(os.getpid())}
        for _ in range(self._number - len(self._waiting)):
            self._waiting.append(
                subprocess.Popen(  # noqa: S603 (an argument list of ours, no shell)
                    self._command, env=environment, stdin=subprocess.PIPE, text=True
                )
            )

    def take(self, environment: Mapping[str, str]) -> subprocess.Popen[str] | None:
        """Make one a rank; None if none lives."""
        while self._waiting:
            process = self._waiting.pop()
            assert process.stdin is not None
            try:
                with process.stdin as stdin:
                    stdin.write(json.dumps(dict(environment)) + "\n")
            except OSError:  # it has ended
                process.kill()
                process.wait()
                continue
            return process
        return None

    def close(self) -> None:
        """End those that wait."""
        while self._waiting:
            _end(self._waiting.pop())


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
