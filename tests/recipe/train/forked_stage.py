"""`diht stage train` in a fork, whose ranks are forks too; else it goes the way of the command.

Usage: forked_stage.py RUN, the run document. What would be the ranks' interpreters waits from the beginning, because
the launcher has threads by the time that it starts ranks. Tools see which was started as a standby by its name.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from diht_k8s.cli.main import main as diht
from diht_k8s.runtime.in_place.rank_processes import STANDBY_VARIABLE
from diht_k8s.stages.train.stage import RANK_MODULE
from tests.recipe.train import fork_server

WAITING = 4
"""Forks that can become ranks; later ones are started as ever."""
STANDBY, RANK = "standby", "rank"
"""Names of the processes, by what they were started as."""
_REQUEST_BYTES = 1 << 17
_waiting: list[tuple[int, socket.socket]] = []


ASKED = [*inspect.signature(subprocess.Popen._execute_child).parameters][1:]
"""What a process is started with."""


class Popen(subprocess.Popen[Any]):
    """Starts ranks as forks, and anything else as ever."""

    def _execute_child(self, *given: Any) -> None:
        asked = dict(zip(ASKED, given, strict=True))
        if RANK_MODULE not in asked["args"] or not _waiting:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        self.pid, to_fork = _waiting.pop(0)
        files = {
            number: file
            for number, file in enumerate(asked[name] for name in ("p2cread", "c2pwrite", "errwrite"))
            if file != -1
        }
        request = {
            "variables": dict(asked["env"] or os.environ),
            "files": list(files),
            "session": asked["start_new_session"],
        }
        with to_fork:
            socket.send_fds(to_fork, [json.dumps(request).encode()], list(files.values()))
            to_fork.recv(1)  # it leads a session now, if it is to
        self._child_created = True
        self._close_pipe_fds(*(asked[f"{pipe}{end}"] for pipe in ("p2c", "c2p", "err") for end in ("read", "write")))


def _fork() -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        for end in [ours, *(each for _, each in _waiting)]:
            end.close()
        _wait(theirs)
    theirs.close()
    return pid, ours


def _wait(launcher: socket.socket) -> None:
    """Wait to be a rank; end with the launcher if it needs none."""
    with launcher:
        data, files, *_ = socket.recv_fds(launcher, _REQUEST_BYTES, 3)
        if not data:
            os._exit(0)
        request = json.loads(data)
        for number, file in zip(request["files"], files, strict=True):
            os.dup2(file, number)
            os.close(file)
        if request["session"]:
            os.setsid()
        Path("/proc/self/comm").write_text(STANDBY if STANDBY_VARIABLE in request["variables"] else RANK)
        launcher.send(b"1")
    fork_server.run([RANK_MODULE], request["variables"])


def main(run: str) -> int:
    for _ in range(WAITING):
        _waiting.append(_fork())
    subprocess.Popen = subprocess_handler.Popen = Popen
    try:
        return diht(["stage", "train", "--run", run])
    finally:
        for pid, end in _waiting:
            end.close()
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
