"""The frame of every stage program: claim the output, end as cached, commit, exit codes, cause of failure."""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DihtError, ExitCode, UserError, missing_package
from diht_k8s.api.hashing import sha256_of, stage_config
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import Artefact, Cause, Committed
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.runtime.commit import begin, commit
from diht_k8s.recipe.runtime.own_inputs import check_own_inputs
from diht_k8s.recipe.runtime.ownership import StageStorage
from diht_k8s.recipe.runtime.progress import Reporter
from diht_k8s.recipe.runtime.signals import StopFlag
from diht_k8s.recipe.runtime.started import require_started
from diht_k8s.recipe.shards.storage import Storage

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
    """A stage: two functions, `identify` before and `execute` within the claim."""

    def identify(self, run: DihtRun, storage: Storage) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Digests of the inputs and of the models used (see `api.hashing.stage_config`)."""
        ...

    def execute(self, context: Context) -> Outcome | None:
        """Do this worker's part; None while other workers' parts are missing."""
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
) -> Committed | None:
    """Run one stage as one worker, to its commit or as far as this worker's part goes.

    Raises:
        DihtError: with the exit code that the program should end with.
    """
    if getattr(run.spec, stage.value) is None:
        raise UserError(f"the run {run.metadata.name} has no stage {stage}: add spec.{stage} to the run document")
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    storage.first = worker == 0
    check_own_inputs(run, storage)
    inputs, programs = program.identify(run, storage)
    config = stage_config(run.spec, stage, inputs, programs)
    later = run.spec.stages[run.spec.stages.index(stage) + 1 :]
    cached = begin(storage, layout, stage, config, later)
    if cached is not None:
        print(f"{stage}: cached ({layout.stage(stage)})", flush=True)
        return cached
    storage.create(layout.run_document, dump(run).encode())
    context = Context(
        run,
        stage,
        stage_storage(run, stage, f"worker-{worker:05d}", sha256_of(config)),
        layout,
        config,
        Reporter(stage, worker=worker),
        stop or StopFlag(),
        worker=worker,
        workers=workers,
        step=step,
    )
    began = time.monotonic()
    outcome = program.execute(context)
    if outcome is None:
        return None
    summary = {"seconds": round(time.monotonic() - began, 1), **outcome.summary}
    return commit(storage, layout, stage, config, outcome.artefacts, summary)


def stage_storage(run: DihtRun, stage: Stage, writer: str, config_sha256: str) -> StageStorage:
    """The storage of one process of a stage: keeps a list of what it writes, and stops when another start takes over.

    Args:
        run: the run.
        stage: the stage.
        writer: says which process it is.
        config_sha256: configuration under which the stage was begun.
    """
    layout = Layout(run.spec.data.output)

    def fence() -> None:
        require_started(storage, layout, stage, config_sha256)

    unique = f"{writer}-{uuid.uuid4().hex[:12]}"  # an earlier start of this process has lists of its own
    storage = StageStorage(run.spec.storage, layout.stage(stage), writer=unique, fence=fence)
    return storage


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
    path = Path(os.environ.get("DIHT_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists() or "DIHT_TERMINATION_LOG" in os.environ:
        cause = Cause.model_validate({
            **details, "exit_code": code, "reason": reason, "message": message, "worker": worker
        })  # fmt: skip
        path.write_text(cause.encoded())
    return code
