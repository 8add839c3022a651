"""`diht` or `torchx` in a fork of a process that has imported what it needs, as are the programs that it starts.

Usage: tests.contract.forked FOLDER, arguments of `diht`; tests.contract.forked:torchx FOLDER, arguments of `torchx`.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.recipe.train import fork_server, forked_stage

DIHT = "diht_k8s.cli"
OURS = [sys.executable, "-P", "-m"]
for name in ("cli.local_runner", "cli.sweep", "cli.results", "cli.stage_folders", "inspection.run_checks"):
    importlib.import_module(f"diht_k8s.{name}")
del sys.modules[f"{DIHT}.stage_folders"]  # is run as a program


class Popen(subprocess.Popen[Any]):
    """Starts programs of ours as forks, and anything else as ever."""

    def _execute_child(self, *given: Any) -> None:
        asked = dict(zip(forked_stage.ASKED, given, strict=True))
        if asked["args"][: len(OURS)] != OURS:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be(asked)
        self._child_created = True
        self._close_pipe_fds(*(asked[f"{pipe}{end}"] for pipe in ("p2c", "c2p", "err") for end in ("read", "write")))


def _be(asked: dict[str, Any]) -> None:
    """Be the program that is asked for."""
    if asked["start_new_session"]:
        os.setsid()
    for number, file in enumerate(asked[name] for name in ("p2cread", "c2pwrite", "errwrite")):
        if file != -1:
            os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"] or ".")
    program, *words = asked["args"][len(OURS) :]
    fork_server.run([f"{__name__}:be", program, *words], dict(asked["env"] or os.environ))


def be(program: str, *words: str) -> int:
    """`python -m program words`."""
    if words[:2] == ("stage", "train") and "DIHT_PROGRAMS" not in os.environ:
        if "--run" not in words:
            Path("training.json").write_text(os.environ["DIHT_RUN"])
        return forked_stage.main(words[3] if "--run" in words else "training.json")
    sys.argv = [program, *words]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
    return 0


def main(folder: str, *words: str, program: str = DIHT) -> int:
    os.chdir(folder)
    subprocess.Popen = Popen
    return be(program, *words)


def torchx(folder: str, *words: str) -> int:
    return main(folder, *words, program="torchx.cli.main")
