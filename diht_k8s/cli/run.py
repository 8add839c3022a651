"""`diht run`: the whole recipe on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from diht_k8s.api.base import in_object_store
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.redaction import redacted_override
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.display import local_goodput, open_display
from diht_k8s.cli.document import read_run
from diht_k8s.cli.local_runner import ComparisonError, LocalRunner, StopSignals
from diht_k8s.cli.local_runs import LOCK, LOGS, local_run_folder
from diht_k8s.cli.placement import Machine, place, this_machine
from diht_k8s.launch.local_jobs import LocalJobs
from diht_k8s.pipeline.plan import stages_until
from diht_k8s.pipeline.run_status import RunState, RunStatus


def run_command(
    path: str, *, overrides: Sequence[str], workdir: str | None, until: str | None, verbose: bool = False
) -> int:
    """Run a document; the exit code, with one line on stderr where the run failed; `verbose` adds where the time
    went.
    """
    signals = stop_signals()
    document = read_run(path, overrides)
    require_recipe()
    last = Stage(until) if until else None
    if last is not None and last not in document.spec.stages:
        raise UserError(f"--until {until}: the run has no such stage: it has {', '.join(document.spec.stages)}")
    machine = this_machine()
    run, changed = place(document, machine, workdir)
    show_placement(changed)
    return run_here(run, machine, signals, path=path, until=last, verbose=verbose)


def stop_signals() -> StopSignals:
    """Count the signals that ask for a stop from now on."""
    signals = StopSignals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signals.on_signal)
    return signals


def show_placement(changed: Iterable[str]) -> None:
    """Print what this machine changes in the document."""
    console = Console()
    for line in changed:
        console.print(f"overridden locally: {line}", markup=False, highlight=False, soft_wrap=True)


def run_here(
    run: DihtRun,
    machine: Machine,
    signals: StopSignals,
    *,
    path: str,
    until: Stage | None = None,
    verbose: bool = False,
) -> int:
    """Run a placed run; the exit code, with one line on stderr where it failed.

    Args:
        run: the run.
        machine: this one.
        signals: that ask for a stop.
        path: of the run's document, for the last lines.
        until: the last stage; None: all.
        verbose: say at the end where the time went.

    Raises:
        UserError: its output cannot be written.
    """
    console = Console()
    try:
        with (
            _log_folder(run) as logs,
            contextlib.closing(LocalJobs(logs)) as jobs,
            open_display(stages_until(run.spec, until), console, time.monotonic) as display,
        ):
            runner = LocalRunner(run, jobs, display, machine, signals, until=until)
            status = runner.execute()
    except ComparisonError as error:
        print("diht: stopped on request" if signals.requests else error, file=sys.stderr)
        return ExitCode.STOPPED if signals.requests else error.exit_code
    for line in local_goodput(status) if verbose else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if status.state is not RunState.COMPLETE:
        return _print_failure(status, runner.log)
    from diht_k8s.cli.results import result_lines  # numpy and the page's parts, which a run needs at its end only

    for line in result_lines(run, until, path):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return ExitCode.DONE


def require_recipe() -> None:
    """The recipe runs in processes of its own: name a missing package here, not in the traceback of the first one.

    Raises:
        ModuleNotFoundError: the extra `recipe` is not installed.
    """
    for package in ("fsspec", "torch"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


@contextlib.contextmanager
def _log_folder(run: DihtRun) -> Iterator[Path]:
    """Where logs go: below a local output, else a temporary folder.

    A `diht run` locks the folder of its logs, which tells that it is alive; a second one of the same run takes another.
    """
    output = run.spec.data.output
    if in_object_store(output):
        yield Path(tempfile.mkdtemp(prefix=f"diht-{run.metadata.name}-"))
        return
    parent = local_run_folder(run)
    names = (LOGS if number == 1 else f"{LOGS}-{number}" for number in itertools.count(1))
    folder, lock = next((parent / name, lock) for name in names if (lock := _locked(parent / name)) is not None)
    try:
        yield folder
    finally:
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """The lock of a folder of logs, held until it is closed; None if another `diht run` holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}: check data.output and its rights") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _print_failure(status: RunStatus, log: Path | None) -> int:
    print(f"diht: {status.message}", file=sys.stderr)
    if status.state is RunState.STOPPED:
        print(f"diht: finished work is kept; to resume: {_command()}", file=sys.stderr)
    elif log is not None:
        print(f"diht: its log: {log}", file=sys.stderr)
    known = {int(code) for code in ExitCode}
    return status.exit_code if status.exit_code in known else ExitCode.UNEXPECTED


def _command() -> str:
    """The command that runs now, to be started again."""
    return shlex.join(["diht", *map(redacted_override, sys.argv[1:])])
