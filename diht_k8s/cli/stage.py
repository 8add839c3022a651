"""`diht stage`: one worker of one stage, as a pod or a local process runs it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Final, cast

from diht_k8s.api.documents import printable
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Stage
from diht_k8s.api.steps import STEPS
from diht_k8s.cli.document import read_run
from diht_k8s.runtime.progress import process_began
from diht_k8s.runtime.signals import StopFlag, end_with_parent
from diht_k8s.runtime.stage import Program, exit_code_of, run_stage

PROGRAMS_VARIABLE: Final = "DIHT_PROGRAMS"
"""Names another package with the same four subpackages, so that tests of the loop run in seconds."""

MAX_DIGITS: Final = 10


def program_of(stage: Stage) -> Program:
    """The module with `identify` and `execute` of a stage; imported here, since it brings parser, OCR or torch."""
    package = os.environ.get(PROGRAMS_VARIABLE, "diht_k8s.stages")
    return cast("Program", importlib.import_module(f"{package}.{stage}.stage"))


def stage_command(
    name: str, path: str | None, overrides: Sequence[str], worker: int | None, workers: int | None, step: str = ""
) -> int:
    """Run a stage; the exit code."""
    stop = StopFlag().install()

    def work() -> None:
        end_with_parent()
        _find_master()
        index, number = place_of(worker, workers)
        run = read_run(path, overrides)
        stop.raise_if_requested()
        if step and step not in STEPS.get(name, ()):
            raise UserError(f"--step {step}: the stage {name} has no such step: leave --step out")
        shape = {"worker": index, "workers": number}
        run_stage(program_of(Stage(name)), run, Stage(name), **shape, step=step, stop=stop, began=process_began())

    variable = os.environ.get("DIHT_WORKER", "")
    return exit_code_of(
        work, worker=(int(variable) if _is_number(variable) else 0) if worker is None else max(worker, 0)
    )


def place_of(worker: int | None, workers: int | None) -> tuple[int, int]:
    """Index of this worker and number of workers, as given, else from the environment, else the only one.

    Raises:
        UserError: there is no such worker.
    """
    index = _number("DIHT_WORKER", 0) if worker is None else worker
    number = _number("DIHT_WORKERS", 1) if workers is None else workers
    if not 0 <= index < number:
        raise UserError(f"worker {index} of {number} workers: --worker counts from 0 to workers - 1")
    return index, number


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not _is_number(text):
        raise UserError(f"{variable}={printable(text)}: set it to a number from 0, or leave it out")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < MAX_DIGITS


def _find_master() -> None:
    """TorchX names the variable that holds the address of replica 0; the launcher of the ranks wants the address."""
    variable = os.environ.get("DIHT_MASTER_VARIABLE")
    if variable and "DIHT_MASTER" not in os.environ:
        os.environ["DIHT_MASTER"] = os.environ.get(variable, "localhost")
