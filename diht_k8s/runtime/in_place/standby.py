"""Standby processes: ranks of the next round that have imported everything and wait to be told their place.

Importing torch, DeepSpeed and open_clip is most of what a rank does before its first step. A standby holds memory of
its imports only: no device, no data, no connection.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from diht_k8s.runtime.pdeathsig import PARENT_VARIABLE

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
