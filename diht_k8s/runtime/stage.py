"""The frame of every stage program: find its folder, end as cached, commit, exit codes, cause of failure."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from diht_k8s.api.errors import DihtError, ExitCode, UserError, missing_package
from diht_k8s.api.hashing import sha256_of, stage_config
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import COMMITTED, Artefact, Cause, Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import SHARED_STEP, WAIT_STEP
from diht_k8s.data.lease import Owner, owner_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import commit, find_committed, find_started, start
from diht_k8s.runtime.inputs import check_own_inputs, why_new
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.run_folder import point, run_layout, write_document
from diht_k8s.runtime.signals import StopFlag

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context:
    """Run, storage and configuration of a stage program."""

    run: DihtRun
    stage: Stage
    storage: Storage
    layout: Layout
    config: dict[str, Any]
    """what `config_sha256` covers."""
    progress: Reporter
    stop: StopFlag
    worker: int = 0
    """index of this worker among those that share the stage."""
    workers: int = 1
    step: str = ""
    """the part of the stage that this program does, where the cluster runs the stage as several jobs; empty does all of
    it."""
    owner: Owner = field(default_factory=lambda: owner_of(os.environ))
    """whose program this is."""
    reads: Mapping[str, str] = field(default_factory=dict[str, str])
    """what it is -> folder that the stage reads, as worker 0 found it."""

    @cached_property
    def config_sha256(self) -> str:
        """Digest of `config`, stored in files as their configuration; `config` may name 100,000 shards."""
        return sha256_of(self.config)


@dataclass(frozen=True)
class Outcome:
    """Artefacts and summary of a stage, for its marker."""

    artefacts: Sequence[Artefact]
    summary: dict[str, Any]


class Program(Protocol):
    """A stage: `identify` says what decides its folder, `reads` what it takes from others, `execute` fills it,
    `present` shows it to those who asked for it.
    """

    def identify(self, run: DihtRun, storage: Storage, layout: Layout) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Digests of the inputs and of the models used (see `api.hashing.stage_config`)."""
        ...

    def reads(self, run: DihtRun, storage: Storage, layout: Layout, config: Mapping[str, Any]) -> dict[str, str]:
        """What it is -> folder that the stage reads: noted in `STARTED.json`."""
        ...

    def execute(self, context: Context) -> Outcome | None:
        """Do this worker's part; None while other workers' parts are missing."""
        ...

    def present(self, run: DihtRun, storage: Storage, layout: Layout) -> None:
        """Write what a run's own folder shows of a complete stage, which other runs may have computed."""
        ...


def run_stage(
    program: Program,
    run: DihtRun,
    stage: Stage,
    *,
    worker: int = 0,
    workers: int = 1,
    step: str = "",
    stop: StopFlag | None = None,
    began: float | None = None,
) -> Committed | None:
    """Run one stage as one worker, to its commit or as far as this worker's part goes.

    Args:
        program: of the stage.
        run: the run.
        stage: the stage.
        worker: index of this worker.
        workers: number of workers that share the stage.
        step: the part of the stage; empty for all of it.
        stop: asked between pieces of work.
        began: when the stage's wall time begins, by `time.monotonic`; None: now.

    Raises:
        DihtError: with the exit code that the program should end with.
    """
    if getattr(run.spec, stage.value) is None:
        raise UserError(f"the run {run.metadata.name} has no stage {stage}: add spec.{stage} to the run document")
    began = time.monotonic() if began is None else began
    storage = Storage(run.spec.storage)
    storage.first = worker == 0
    check_own_inputs(run, storage)
    before = run_layout(run, storage)
    layout, config = locate(program, run, storage, before, stage)
    if worker == 0 and (why := why_begun(storage, before, layout, stage, config)):
        print(f"{stage}: {why}", flush=True)
    write_document(run, storage)
    started = start(storage, layout, stage, config, program.reads(run, storage, layout, config))
    point(run, storage, layout, stage, lead=worker == 0)
    committed = find_committed(storage, layout, stage)
    if committed is not None:
        print(f"{stage}: cached ({layout.stage(stage)})", flush=True)
    else:
        shape = {"worker": worker, "workers": workers, "step": step}
        reporter, stop = Reporter(stage, worker=worker), stop or StopFlag()
        context = Context(run, stage, storage, layout, config, reporter, stop, **shape, reads=started.reads)
        noted = noted_time(storage, layout, stage)  # before the program's end removes all that lies beside the claims
        if (outcome := _executed(program, context, began)) is not None:
            summary = _with_time({"processes": workers, **outcome.summary}, time.monotonic() - began, *noted)
            committed = commit(storage, layout, stage, config, outcome.artefacts, summary)
        elif step == WAIT_STEP:
            committed = find_committed(storage, layout, stage)
    if worker == 0 and storage.exists(layout.committed(stage)):
        program.present(run, storage, layout)
    return _ended(committed, layout.stage(stage), worker)


def _executed(program: Program, context: Context, began: float) -> Outcome | None:
    """The outcome of a program; the time of one that completes nothing is noted for the one that does.

    Workers that share a stage do so at the same time: the time of one that is done before the last one is in the last
    one's.
    """
    noted = context.worker == 0 and context.step != WAIT_STEP
    try:
        outcome = program.execute(context)
        noted = noted and outcome is None and context.step not in ("", SHARED_STEP)
    finally:
        if noted:
            place = (context.storage, context.layout, context.stage, context.step)
            with contextlib.suppress(DihtError):  # a full disk ends the program with its own message
                note_time(*place, time.monotonic() - began, context.workers)
    return outcome


def _with_time(summary: dict[str, Any], own: float, before: float, held: float) -> dict[str, Any]:
    """The summary with the wall time of the stage's programs, this one's and those before it, and the seconds of
    processes.
    """
    times = {"wall_seconds": before + own, "process_seconds": held + own * summary["processes"]}
    return {**{name: round(value, 1) for name, value in times.items()}, **summary}


def _ended(committed: Committed | None, folder: str, worker: int) -> Committed | None:
    """Leave the stage's folder as the termination message, and whether it is committed: the operator reads no
    storage.
    """
    reason = "Completed" if committed is None else COMMITTED
    _leave(Cause(exit_code=ExitCode.DONE, reason=reason, message="", worker=worker, output=folder))
    return committed


def why_begun(storage: Storage, before: Layout, layout: Layout, stage: Stage, config: Mapping[str, Any]) -> str:
    """Why a stage begins its folder and does not go on in the one from before, for a person; or nothing."""
    if stage not in before.folders or before.stage(stage) == layout.stage(stage):
        return ""
    try:
        started, committed = find_started(storage, before, stage), find_committed(storage, before, stage)
    except DihtError:  # who looks at a damaged folder reports it
        return ""
    return "" if started is None else why_new(started.config, config, complete=committed is not None)


def locate(
    program: Program, run: DihtRun, storage: Storage, layout: Layout, stage: Stage
) -> tuple[Layout, dict[str, Any]]:
    """Find the folder of a stage: the layout with it, and the configuration that decides it.

    Args:
        program: of the stage.
        run: the run.
        storage: of its inputs and output.
        layout: with the folders of the stages before it.
        stage: the stage.

    Raises:
        UserError: an input is missing, among them the output of a stage before.
    """
    inputs, programs = program.identify(run, storage, layout)
    config = stage_config(run.spec, stage, inputs, programs)
    return layout.at(stage, sha256_of(config)), config


def exit_code_of(work: Callable[[], object], *, worker: int = 0) -> int:
    """Run a program's work; its exit code, with the cause on stderr and in the termination message.

    Expected errors are one line; a traceback is printed only for what we did not expect.
    """
    try:
        work()
    except DihtError as error:
        return _failed(error.exit_code, type(error).__name__, str(error), worker, error.details)
    except KeyboardInterrupt:
        return _failed(ExitCode.STOPPED, "StopRequested", "interrupted: start again to resume", worker)
    except ImportError as error:
        return _failed(ExitCode.USER_ERROR, "ImportError", missing_package(error), worker)
    except Exception as error:
        logger.exception("unexpected error")
        return _failed(ExitCode.UNEXPECTED, type(error).__name__, str(error), worker)
    return ExitCode.DONE


def _failed(
    code: ExitCode, reason: str, message: str, worker: int, details: Mapping[str, Any] = MappingProxyType({})
) -> int:
    print(f"diht: {message}", file=sys.stderr, flush=True)
    _leave(Cause.model_validate({**details, "exit_code": code, "reason": reason, "message": message, "worker": worker}))
    return code


def _leave(cause: Cause) -> None:
    """Write the termination message, in a pod or where a launcher wants it."""
    path = Path(os.environ.get("DIHT_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists() or "DIHT_TERMINATION_LOG" in os.environ:
        path.write_text(cause.encoded())


PREFIX: Final = "time of program "


def note_time(storage: Storage, layout: Layout, stage: Stage, step: str, seconds: float, processes: int) -> None:
    """Add to the time of a step (or of the whole stage, without a name) that is not the commit's.

    Args:
        storage: where the stage's folder lies.
        layout: with this folder.
        stage: the stage.
        step: the program's part of it.
        seconds: wall time of the program.
        processes: number of processes that took so long.
    """
    uri = join(layout.stage(stage), "claims", f"{PREFIX}{step or stage.value}.json")
    before, held = _read(storage, uri)
    found = {"seconds": round(before + seconds, 1), "process_seconds": round(held + seconds * processes, 1)}
    storage.write_bytes(uri, json.dumps(found).encode())


def noted_time(storage: Storage, layout: Layout, stage: Stage) -> tuple[float, float]:
    """Seconds of wall time and of processes that the stage's programs noted."""
    folder = join(layout.stage(stage), "claims")
    found = [_read(storage, join(folder, name)) for name in storage.names(folder) if name.startswith(PREFIX)]
    return sum(wall for wall, _ in found), sum(held for _, held in found)


def _read(storage: Storage, uri: str) -> tuple[float, float]:
    try:
        found = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
        return float(found.get("seconds", 0)), float(found.get("process_seconds", 0))
    except (AttributeError, TypeError, ValueError):
        return 0.0, 0.0
