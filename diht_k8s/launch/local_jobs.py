"""Jobs on this machine, through TorchX's runner and its `local_cwd` scheduler: start, status, stop.

TorchX starts the processes and keeps their logs. It does not report which process ended first and with which exit code;
that is read from the processes themselves. Each process leads its own session, so that Ctrl-C in the terminal reaches
only the caller.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from torchx.runner import Runner
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler
from torchx.specs import AppDef, AppHandle, macros

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reports import Cause

LOG_TAIL_BYTES: Final = 2000
SCHEDULER: Final = "local_cwd"
_Send = Callable[[subprocess.Popen[bytes]], None]


@dataclass(frozen=True)
class LocalJobStatus:
    """The state of a job's processes."""

    running: int
    """number of processes that have not ended."""
    failed: ProcessFailure | None = None
    """the first failure; None if no process failed so far."""


@dataclass(frozen=True)
class ProcessFailure:
    """How a process failed."""

    exit_code: int
    """as a shell reports it: 128 + n for signal n."""
    reason: str
    message: str
    log: Path
    """file with the stderr of the process."""
    cause: Cause | None = None
    """what the program left as its cause; None if it left none."""


@dataclass
class _LocalJob:
    handle: AppHandle
    folder: Path
    processes: list[subprocess.Popen[bytes]]
    failed: ProcessFailure | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    rests: dict[int, bytes] = field(default_factory=dict)


class LocalJobs:
    """Jobs by name. Not thread-safe."""

    def __init__(self, log_folder: Path) -> None:
        """Make a runner; each job gets a folder below `log_folder` for its logs and causes of failure."""
        self._log_folder = log_folder
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._scheduler = _RecordingScheduler()
        for number, handler in handlers.items():  # the scheduler installs handlers of its own; the caller's stay
            signal.signal(number, handler)
        self._runner = Runner("", {SCHEDULER: lambda session_name, **_: self._scheduler})
        self._jobs: dict[str, _LocalJob] = {}

    def start(self, name: str, app: AppDef, env: Mapping[str, str]) -> None:
        """Start a job, with `env` over its roles' environment; does nothing if the name was started before."""
        if name in self._jobs:
            return
        folder = self._log_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        cause = f"{str(folder).replace('$', '$$')}/cause-{macros.replica_id}.json"
        roles = [replace(role, env={**role.env, **env, "DIHT_TERMINATION_LOG": cause}) for role in app.roles]
        for leftover in folder.glob("cause-*.json"):  # from an earlier `diht run`, whose attempts have the same names
            leftover.unlink()
        self._scheduler.processes = []
        request = self._runner.dryrun(replace(app, name=name, roles=roles), SCHEDULER, {"log_dir": str(folder)})
        logs = Path(request.request.log_dir) / app.roles[0].name
        self._jobs[name] = _LocalJob(self._runner.schedule(request), logs, self._scheduler.processes)

    def status(self, name: str) -> LocalJobStatus | None:
        """The state of a job; None if it was never started."""
        job = self._jobs.get(name)
        if job is None:
            return None
        running = sum(process.poll() is None for process in job.processes)
        if job.failed is None:
            job.failed = self._first_failure(name, job)
        if not running:
            self._runner.status(job.handle)  # TorchX closes its logs
        return LocalJobStatus(running, job.failed)

    def new_lines(self, name: str) -> list[str]:
        """Whole lines that the processes of a job have printed on stdout since the last call."""
        job = self._jobs[name]
        lines: list[str] = []
        for index in range(len(job.processes)):
            with (job.folder / str(index) / "stdout.log").open("rb") as file:
                file.seek(job.offsets.get(index, 0))
                data = file.read()
            job.offsets[index] = job.offsets.get(index, 0) + len(data)
            *whole, job.rests[index] = (job.rests.get(index, b"") + data).split(b"\n")
            lines += [line.decode(errors="replace") for line in whole]
        return lines

    def stop(self, name: str) -> None:
        """Ask the processes to end: SIGTERM to each, as Kubernetes sends it to process 1 of a container."""
        self._signal(name, lambda process: process.send_signal(signal.SIGTERM))

    def kill(self, name: str) -> None:
        """Kill the processes and all processes that they started."""
        self._signal(name, lambda process: os.killpg(process.pid, signal.SIGKILL))

    def close(self) -> None:
        """Kill what still runs."""
        for name in self._jobs:
            self.kill(name)
        self._runner.close()

    def _signal(self, name: str, send: _Send) -> None:
        for process in self._jobs[name].processes:
            if process.poll() is None:
                send(process)

    def _first_failure(self, name: str, job: _LocalJob) -> ProcessFailure | None:
        """The first failure: the one with the oldest cause file. A killed process leaves no such file."""
        codes = {index: code for index, process in enumerate(job.processes) if (code := process.poll())}
        if not codes:
            return None
        causes = {index: self._log_folder / name / f"cause-{index}.json" for index in codes}
        written = [index for index in codes if causes[index].exists()]
        first = min(written, key=lambda index: causes[index].stat().st_mtime_ns) if written else min(codes)
        return _failure(codes[first], causes[first], job.folder / str(first) / "stderr.log")


class _RecordingScheduler(LocalScheduler):
    """TorchX's `local_cwd`, recording the processes that it starts."""

    def __init__(self) -> None:
        super().__init__("", CWDImageProvider)
        self.processes: list[subprocess.Popen[bytes]] = []

    def run_local_job(
        self,
        args: list[str],
        env: dict[str, str],
        stdout: io.FileIO | None,
        stderr: io.FileIO | None,
        cwd: str | None = None,
    ) -> subprocess.Popen[bytes]:
        process = super().run_local_job(args, env, stdout, stderr, cwd)
        self.processes.append(process)
        return process


def _failure(code: int, cause_path: Path, log: Path) -> ProcessFailure:
    exit_code = 128 - code if code < 0 else code
    try:
        cause = Cause.model_validate_json(cause_path.read_text())
    except (OSError, ValidationError):
        return ProcessFailure(
            exit_code, _signal_name(code), _last_line(log) or f"ended with exit code {exit_code}", log
        )
    return ProcessFailure(exit_code, cause.reason, cause.message, log, cause)


def _signal_name(code: int) -> str:
    """The name of the signal that ended a process; empty if it ended by itself."""
    if code == -signal.SIGTERM:
        return ExitCode.STOPPED.name
    return signal.Signals(-code).name if code < 0 else ""


def _last_line(log: Path) -> str:
    """The last line of a log that is not blank."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
