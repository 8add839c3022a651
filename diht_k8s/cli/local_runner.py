"""The runner behind `diht run`: observe, plan, act, as the operator does, on processes of this machine.

In: a placed run, jobs, a display. Out: the final status. `pipeline.plan` alone decides what happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DihtError
from diht_k8s.api.pods import OWNER_VARIABLE
from diht_k8s.api.reports import GOODPUT_VARIABLE, Progress, TimeSpent, parse_progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import StageState
from diht_k8s.cli.display import Display, duration, page_goodput
from diht_k8s.cli.placement import Machine, threads_per_process
from diht_k8s.data.lease import this_process
from diht_k8s.launch import stages
from diht_k8s.launch.local_jobs import LocalJobs
from diht_k8s.pipeline.attempts import (
    Attempt,
    AttemptState,
    AttemptTimes,
    CommittedWork,
    InPlaceRestarts,
    checkpoint_work,
    furthest,
    in_place_of,
    most_restarts,
    most_spent,
    progress_work,
)
from diht_k8s.pipeline.failure_policy import BACK_OFF, BackOff
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Action, Expire, LowerMinCount, Observed, Resize, Start, Stop, plan
from diht_k8s.pipeline.run_status import RunState, RunStatus, StageRecord
from diht_k8s.runtime.signals import PARENT_VARIABLE

POLL_S: Final = 0.2
GRACE_S: Final = 300.0
"""Time for a last checkpoint after SIGTERM, as pods have it."""


class ComparisonError(DihtError):
    """The cached stages could not be found; the message is the stderr of the program that looks for them."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[assignment]


def look_into_folders(runs: Sequence[DihtRun], *arguments: str) -> Any:
    """What `cli.stage_folders` finds of some runs, in a program of its own.

    Raises:
        ComparisonError: it fails.
    """
    command = [sys.executable, "-P", "-m", "diht_k8s.cli.stage_folders", *arguments]
    done = subprocess.run(  # noqa: S603 (an argument list of ours, no shell)
        command, input=json.dumps([dump(run) for run in runs]), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ComparisonError(done.returncode, done.stderr.strip())
    return json.loads(done.stdout.splitlines()[-1])


@dataclass
class StopSignals:
    """Number of stop signals to `diht run`: the first asks for a stop, the second for a stop at once."""

    requests: int = 0

    def on_signal(self, number: int, frame: object) -> None:
        """Count a signal."""
        self.requests += 1


@dataclass
class _StartedAttempt:
    """An attempt that runs or ran here, and the newest reports in its log."""

    start: Start
    started_at: float
    stopped_at: float | None = None
    """when its programs were asked to stop."""
    ended_at: float | None = None
    """when all its programs had ended."""
    work: CommittedWork | None = None
    in_place: InPlaceRestarts | None = None
    spent: TimeSpent | None = None

    def read(self, progress: Progress) -> None:
        """Take over what a progress line reports."""
        self.work = furthest((self.work, progress_work(progress)))
        self.in_place = most_restarts((self.in_place, in_place_of(self.start.number, (progress.rounds,))))
        self.spent = most_spent((self.spent, progress.time_spent))


@dataclass
class LocalRunner:
    """One `diht run`."""

    run: DihtRun
    jobs: LocalJobs
    display: Display
    machine: Machine
    signals: StopSignals
    until: Stage | None = None
    back_off: BackOff = BACK_OFF
    clock: Callable[[], float] = time.time
    log: Path | None = None
    """of the last program that failed."""
    _cached: set[Stage] = field(default_factory=set)
    _attempts: dict[str, _StartedAttempt] = field(default_factory=dict)
    """by name, the newest last."""

    def execute(self) -> RunStatus:
        """Run until the run is complete, has failed or is stopped and no process is left.

        Raises:
            ComparisonError: the cached stages cannot be found.
        """
        self._find_cached()
        status = RunStatus()
        while True:
            observed = self._observe()
            decided = plan(
                self.run,
                observed,
                self.clock(),
                status=status,
                until=self.until,
                back_off=self.back_off,
                steps=CLUSTER_STEPS,
            )
            for action in decided.actions:
                self._act(action, decided.status)
            self._show(status, decided.status)
            status = decided.status
            if status.state is not RunState.RUNNING and not any(attempt.active for attempt in observed.attempts):
                return status
            time.sleep(POLL_S)

    def _find_cached(self) -> None:
        """Find the stages that are cached, up to the first that is not, and say why that one begins or goes on."""
        for found in look_into_folders([self.run], *([] if self.until is None else [self.until.value])):
            if found["cached"]:
                self._cached.add(Stage(found["stage"]))
            if found["note"]:
                self.display.note(f"{found['stage']}: {found['note']}")

    def _observe(self) -> Observed:
        attempts = tuple(self._observe_attempt(name, attempt) for name, attempt in self._attempts.items())
        return Observed(attempts, frozenset(self._cached), stop_requested=self.signals.requests > 0)

    def _observe_attempt(self, name: str, attempt: _StartedAttempt) -> Attempt:
        for line in self.jobs.new_lines(name):
            if (progress := parse_progress(line)) is not None:
                self.display.progress(progress)
                attempt.read(progress)
        status, start = self.jobs.status(name), attempt.start
        assert status is not None
        if not status.running and attempt.ended_at is None:
            attempt.ended_at = self.clock()
        began, ended = attempt.started_at, attempt.ended_at
        observed = Attempt(
            start.stage,
            start.number,
            AttemptState.FAILED,
            active=status.running,
            step=start.step,
            work=attempt.work,
            in_place=attempt.in_place,
            started_at=began,
            ended_at=ended,
            times=AttemptTimes(began, began, began, began, ended),
            spent=attempt.spent,
        )
        if status.failed is None:
            state = AttemptState.RUNNING if status.running else AttemptState.SUCCEEDED
            return replace(observed, state=state)
        failed, self.log = status.failed, status.failed.log
        self._kill_late(name, attempt, status.running)
        cause = failed.cause
        return replace(
            observed,
            exit_code=failed.exit_code,
            reason=failed.reason,
            message=failed.message,
            work=furthest((attempt.work, checkpoint_work(cause.checkpoint) if cause is not None else None)),
            failed_at=cause.step if cause is not None else None,
            in_place=most_restarts((attempt.in_place, in_place_of(start.number, (cause.rounds,)) if cause else None)),
            spent=most_spent((attempt.spent, cause.time_spent if cause is not None else None)),
        )

    def _kill_late(self, name: str, attempt: _StartedAttempt, running: int) -> None:
        """Kill programs that were asked to stop and whose grace period is over."""
        asked_at = attempt.stopped_at
        if running and asked_at is not None and (self.signals.requests > 1 or self.clock() > asked_at + GRACE_S):
            self.jobs.kill(name)

    def _act(self, action: Action, status: RunStatus) -> None:
        if isinstance(action, Expire | LowerMinCount | Resize):  # only on a cluster
            return
        if isinstance(action, Stop):
            attempt = self._attempts[action.name]
            if attempt.stopped_at is None:
                attempt.stopped_at = self.clock()
                self.jobs.stop(action.name)
            return
        env = {"DIHT_PROGRESS_SECONDS": "1", PARENT_VARIABLE: str(os.getpid()), OWNER_VARIABLE: this_process()}
        if action.stage is Stage.EVALUATE:
            env[GOODPUT_VARIABLE] = page_goodput(status)
        if "OMP_NUM_THREADS" not in os.environ:
            shaped = stages.sized_for_step(self.run, action.stage, action.step)
            env["OMP_NUM_THREADS"] = str(threads_per_process(shaped, action.stage, self.machine))
        self.jobs.start(action.name, stages.stage_app(self.run, action.stage, step=action.step), env)
        self._attempts[action.name] = _StartedAttempt(action, self.clock())

    def _show(self, before: RunStatus, after: RunStatus) -> None:
        for stage in after.stages:
            old = before.of(stage.stage, stage.step)
            if (stage.state, stage.attempt) != (old.state, old.attempt):
                self._show_stage(stage)
            elif stage.total_in_place != old.total_in_place:
                restarts = stage.in_place
                self.display.state(
                    stage.stage,
                    f"attempt {restarts.attempt}, round "
                    f"{restarts.restarts + 1}: restarted in place: {restarts.message}",
                )

    def _show_stage(self, stage: StageRecord) -> None:
        """Show a stage's new state; a stage of several steps has ended with its last one."""
        failure = stage.failure.message if stage.failure else ""
        last = stage.step == CLUSTER_STEPS.get(stage.stage, ("",))[-1]
        step = f"{stage.step}: " if stage.step else ""

        def show(text: str, *, ended: bool = False) -> None:
            self.display.state(stage.stage, text if ended else f"{step}{text}", ended=ended)

        if stage.state is StageState.RUNNING:
            show("starting" if stage.attempt == 1 else f"starting, attempt {stage.attempt}")
        elif stage.state is StageState.CACHED and last:
            show("cached", ended=True)
        elif stage.state is StageState.COMPLETE:
            show(f"done in {duration(self.clock() - self._began(stage, whole=last))}", ended=last)
        elif stage.state is StageState.RESTARTING and stage.not_before is not None:
            show(f"starts again in {duration(stage.not_before - self.clock())}: {failure}")
        elif stage.state in (StageState.FAILED, StageState.STOPPED):
            show(stage.state.value.lower())

    def _began(self, stage: StageRecord, *, whole: bool) -> float:
        """When the newest attempt began, at a step or at the first step of the whole stage."""
        step = CLUSTER_STEPS.get(stage.stage, ("",))[0] if whole else stage.step
        newest_first = reversed(self._attempts.values())
        return next(
            each.started_at for each in newest_first if (each.start.stage, each.start.step) == (stage.stage, step)
        )
