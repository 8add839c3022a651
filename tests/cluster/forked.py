"""The operator and `diht` as forks of a process that has imported both, which else takes each a CPU second."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from diht_k8s.cli import cluster, main, status_sentences, watch  # noqa: F401 (what a fork then need not import)
from diht_k8s.controller import __main__ as controller
from tests.recipe.train import fork_server


def operate(program: str, *arguments: str) -> None:
    """The operator, or one that a module makes faulty as it is imported."""
    if program != controller.__name__:
        importlib.import_module(program)
    controller.main(arguments)


def diht(*arguments: str) -> NoReturn:
    """The command."""
    sys.exit(main.main(arguments))


def start(function: str, *arguments: str, variables: Mapping[str, str], output: IO[Any]) -> fork_server.Forked:
    """One of the functions above as a process; both streams go to the output."""
    files = {"stdout": output, "stderr": output}
    program = f"{__name__}:{function}"
    return fork_server.start(program, *arguments, variables=variables, modules=(__name__,), torch=False, **files)


def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`diht` with its arguments; both streams as one."""
    with tempfile.TemporaryFile() as output:
        process = start("diht", *arguments, variables={**os.environ, **variables}, output=output)
        code = process.wait(120)
        output.seek(0)
        return subprocess.CompletedProcess(arguments, code, output.read().decode())
