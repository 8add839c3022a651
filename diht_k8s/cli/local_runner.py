"""The local run: observe, plan, act, as the operator does, on processes of this machine.

In: a placed run, jobs, a display. Out: the final status. What to do is decided by `pipeline.plan` alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DihtError
from diht_k8s.api.reports import GOODPUT_VARIABLE, TimeSpent, parse_progress
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import StageState
from diht_k8s.cli.display import Display, duration
from diht_k8s.cli.goodput_lines import page_goodput
from diht_k8s.cli.placement import Machine, threads_per_process
from diht_k8s.launch import stages
from diht_k8s.launch.local_jobs import LocalJobs
from diht_k8s.pipeline.attempt_reports import (
    checkpoint_work,
    furthest,
    in_place_of,
    most_restarts,
    most_spent,
    progress_work,
)
from diht_k8s.pipeline.attempts import Attempt, AttemptState, AttemptTimes, CommittedWork, InPlaceRestarts
from diht_k8s.pipeline.failure_policy import BACK_OFF, BackOff
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Action, Expire, Observed, Start, Stop, plan
from diht_k8s.pipeline.run_status import RunState, RunStatus, StageRecord
from diht_k8s.recipe.runtime.pdeathsig import PARENT_VARIABLE

POLL_S: Final = 0.2
GRACE_S: Final = 300.0
"""Time for a last checkpoint after SIGTERM, as pods have it."""


class ComparisonError(DihtError):
    """The stages could not be compared with the run; the message is what the program wrote on stderr."""

    def __init__(self, exit_code: int, said: str) -> None:
        super().__init__(said)
        self.exit_code = exit_code  # type: ignore[assignment]


@dataclass
class StopSignals:
    """Counts signals to `diht run`: the first asks for a stop, the second for a stop at once."""

    requests: int = 0

    def on_signal(self, number: int, frame: object) -> None:
        """Count a signal."""
        self.requests += 1


@dataclass
class LocalRunner:
    """One `diht run`."""

    run: DihtRun
    jobs: LocalJobs
    display: Display
    machine: Machine
    stopper: StopSignals
    until: Stage | None = None
    replace: bool = False
    back_off: BackOff = BACK_OFF
    clock: Callable[[], float] = time.time
    log: Path | None = None
    """of the last program that failed."""
    _cached: set[Stage] = field(default_factory=set)
    _inspected: set[Stage] = field(default_factory=set)
    _started: dict[str, Start] = field(default_factory=dict)
    _started_at: dict[tuple[Stage, str], float] = field(default_factory=dict)
    """of the newest attempt at each stage, or at each step of it."""
    _attempts_at: dict[str, float] = field(default_factory=dict)
    """when attempts started, by name."""
    _ended_at: dict[str, float] = field(default_factory=dict)
    """of attempts whose programs have all ended, by name."""
    _work: dict[str, CommittedWork | None] = field(default_factory=dict)
    _in_place: dict[str, InPlaceRestarts | None] = field(default_factory=dict)
    _spent: dict[str, TimeSpent | None] = field(default_factory=dict)
    """committed work that the log of an attempt named last, by name."""
    _stopped_at: dict[str, float] = field(default_factory=dict)

    def execute(self) -> RunStatus:
        """Run until the run is complete, has failed or is stopped and no process is left.

        Raises:
            InspectionError: what is there already cannot be compared with the run.
        """
        self._inspect(self.run.spec.stages[0])
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
            if (unseen := self._uninspected(decided.actions)) is not None:
                self._inspect(unseen)
                continue
            for action in decided.actions:
                self._act(action, decided.status)
            self._show(status, decided.status)
            status = decided.status
            if status.state is not RunState.RUNNING and not any(attempt.active for attempt in observed.attempts):
                return status
            time.sleep(POLL_S)

    def _uninspected(self, actions: tuple[Action, ...]) -> Stage | None:
        """With --replace, a stage is compared before it starts: its inputs are known only then."""
        starts = [action.stage for action in actions if isinstance(action, Start)]
        return next((stage for stage in starts if self.replace and stage not in self._inspected), None)

    def _inspect(self, first: Stage) -> None:
        command = [sys.executable, "-P", "-m", "diht_k8s.cli.cached_stages", first.value]
        done = subprocess.run(  # noqa: S603 (an argument list of ours, no shell)
            [*command, "--replace"] if self.replace else command,
            env={**os.environ, "DIHT_RUN": dump(self.run)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ComparisonError(done.returncode, done.stderr.strip())
        self._inspected.add(first)
        for found in json.loads(done.stdout.splitlines()[-1]):
            stage = Stage(found["stage"])
            self._inspected.add(stage)
            if found["cached"]:
                self._cached.add(stage)
            if found["replaced"]:
                self.display.note(
                    f"--replace: removed the output of {', '.join(found['replaced'])}, because {stage} differs: "
                    + "; ".join(found["differences"][:6])
                )
            if found["left"]:
                self.display.note(
                    f"left: {found['left_count']} files that this project did not write, for example {found['left'][0]}"
                )

    def _observe(self) -> Observed:
        attempts = tuple(self._attempt(start) for start in self._started.values())
        return Observed(attempts, frozenset(self._cached), stop_requested=self.stopper.requests > 0)

    def _attempt(self, start: Start) -> Attempt:
        for line in self.jobs.new_lines(start.name):
            if (progress := parse_progress(line)) is not None:
                self.display.progress(progress)
                self._work[start.name] = furthest((self._work.get(start.name), progress_work(progress)))
                said = in_place_of(start.number, (progress.rounds,))
                self._in_place[start.name] = most_restarts((self._in_place.get(start.name), said))
                self._spent[start.name] = most_spent((self._spent.get(start.name), progress.time_spent))
        status = self.jobs.status(start.name)
        assert status is not None
        if not status.running:
            self._ended_at.setdefault(start.name, self.clock())
        began, ended = self._attempts_at[start.name], self._ended_at.get(start.name)
        known = Attempt(
            start.stage, start.number, AttemptState.FAILED, active=status.running, step=start.step,
            work=self._work.get(start.name), in_place=self._in_place.get(start.name), started_at=began, ended_at=ended,
            times=AttemptTimes(began, began, began, began, ended), spent=self._spent.get(start.name),
        )  # fmt: skip
        if status.failed is None:
            state = AttemptState.RUNNING if status.running else AttemptState.SUCCEEDED
            return replace(known, state=state)
        failed, self.log = status.failed, status.failed.log
        self._end_late(start.name, status.running)
        cause = failed.cause
        return replace(
            known,
            exit_code=failed.exit_code,
            reason=failed.reason,
            message=failed.message,
            work=furthest((known.work, checkpoint_work(cause.checkpoint) if cause is not None else None)),
            failed_at=cause.step if cause is not None else None,
            in_place=most_restarts((known.in_place, in_place_of(start.number, (cause.rounds,)) if cause else None)),
            spent=most_spent((known.spent, cause.time_spent if cause is not None else None)),
        )

    def _end_late(self, name: str, running: int) -> None:
        """Kill programs that were asked to stop and whose grace period is over."""
        asked_at = self._stopped_at.get(name)
        if running and asked_at is not None and (self.stopper.requests > 1 or self.clock() > asked_at + GRACE_S):
            self.jobs.kill(name)

    def _act(self, action: Action, status: RunStatus) -> None:
        if isinstance(action, Expire):  # only a cluster deletes runs
            return
        if isinstance(action, Stop):
            if action.name not in self._stopped_at:
                self._stopped_at[action.name] = self.clock()
                self.jobs.stop(action.name)
            return
        env = {"DIHT_PROGRESS_SECONDS": "1", PARENT_VARIABLE: str(os.getpid())}
        if action.stage is Stage.EVALUATE:
            env[GOODPUT_VARIABLE] = page_goodput(status)
        if "OMP_NUM_THREADS" not in os.environ:
            shaped = stages.sized_for_step(self.run, action.stage, action.step)
            env["OMP_NUM_THREADS"] = str(threads_per_process(shaped, action.stage, self.machine))
        self.jobs.start(action.name, stages.stage_app(self.run, action.stage, step=action.step), env)
        self._started[action.name] = action
        self._started_at[action.stage, action.step] = self._attempts_at[action.name] = self.clock()

    def _show(self, before: RunStatus, after: RunStatus) -> None:
        for stage in after.stages:
            known = before.of(stage.stage, stage.step)
            if (stage.state, stage.attempt) != (known.state, known.attempt):
                self._show_stage(stage)
            elif stage.total_in_place != known.total_in_place:
                restarts = stage.in_place
                self.display.state(
                    stage.stage,
                    f"attempt {restarts.attempt}, round {restarts.restarts + 1}: restarted in place: {restarts.message}",
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
        return self._started_at[stage.stage, step]
