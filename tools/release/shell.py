"""Runs the programs of a release: each is printed before it runs, so that the log shows what was done."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run(*words: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a program to its end; its output goes where ours goes.

    Args:
        words: the program and its arguments.
        cwd: the folder to run it in.
        env: variables besides those of this process.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [str(word) for word in words]
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, check=True)


def output(*words: str | Path, cwd: Path | None = None) -> str:
    """What a program prints, without the end of its last line.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [str(word) for word in words]
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip("\n")
