"""Discrete-event simulation of long trainings around the real `plan()`. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any, Final

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.plan import Observed, Start, plan
from diht_k8s.pipeline.run_status import FINAL, RunStatus, StageRecord

GPU_HOURS_PER_FAULT: Final = 50_677.0
"""Llama 3 (arXiv 2407.21783): 419 unexpected interruptions of 16,384 GPUs in 54 days."""
DAY: Final = 86_400.0
GPUS_PER_NODE: Final = 8
STEP_S: Final = 1.0
MOST_EVENTS: Final = 100_000


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    share: float
    """of all faults."""
    found_s: float
    """seconds until the attempt is known to have failed."""
    infrastructure: bool = False
    """whether it counts as a fault of the infrastructure."""
    takes_node: bool = False
    """whether the node is away for repair."""


MIX: Final = (
    Kind(0.63, 10.0),
    Kind(0.26, 75.0, infrastructure=True, takes_node=True),
    Kind(0.11, 130.0),
)
"""ByteRobust (arXiv 2509.16293) tells explicit failures from hangs (about a tenth); a quarter takes its machine away.
An error that a program reports is known within seconds, a lost node after taint and eviction (measured: 75 s), a hang
after the watchdog's 120 s and its stacks."""


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    gpus: int
    days: float = 30.0
    """productive days that the training needs."""
    startup_s: float = 60.0
    """from the start of an attempt to its first step."""
    checkpoint_s: float = 900.0
    """between two checkpoints."""
    stall_s: float = 5.0
    """training stands still this long for each checkpoint."""
    commit_s: float = 30.0
    """a checkpoint is written in the background and counts only after this time."""
    gpu_hours_per_fault: float = GPU_HOURS_PER_FAULT
    preempted_every_h: float | None = None
    """mean hours between preemptions, which give the programs time for a last checkpoint."""
    grace_s: float = 15.0
    """what that checkpoint takes."""
    queue_s: float = 0.0
    """mean wait before an attempt that lost its nodes is admitted again."""
    spares: int = 2
    """nodes beyond those that the training needs."""
    repair_h: float = 24.0
    """mean hours until a lost node is back."""
    fault_after_s: float | None = None
    """a program that fails this long after each start, for crash loops."""
    most_days: float = 400.0
    policy: dict[str, Any] = field(default_factory=dict)
    """failurePolicy."""
    faults_s: tuple[float, ...] = ()
    """seconds of work in each attempt before it fails, to play faults that were injected; empty draws them."""
    mix: tuple[Kind, ...] = MIX
    """kinds of faults."""
    first_wait_s: float = 2.0
    """before the first restart; see `BackOff`."""

    @property
    def mtbf_s(self) -> float:
        """Mean seconds between two faults; a preemption gives time for a checkpoint and loses no work."""
        return self.gpu_hours_per_fault * 3600 / self.gpus


@dataclass(frozen=True)
class Result:
    """How a simulated run went."""

    state: str
    reason: str
    days: float
    """from the first attempt's start to the end."""
    effective: float
    """productive time over all time but that in queues."""
    failures: int
    lost_h: float
    """work that was repeated."""
    waited_h: float
    """waits before restarts."""
    repaired_h: float
    """waits for a node because no spare was left."""
    queued_h: float
    """in queues after preemptions."""


def document(policy: dict[str, Any], **spec: Any) -> DihtRun:
    """A run of one training."""
    data = {"sources": [{"name": "w", "shards": ["a.tar"]}], "output": "o"}
    train = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}}
    return DihtRun.model_validate(
        {
            "apiVersion": "diht.dev/v1alpha1",
            "kind": "DihtRun",
            "metadata": {"name": "r"},
            "spec": {"data": data, "train": train, "failurePolicy": policy, **spec},
        }
    )


def best_interval(setting: Setting) -> float:
    """The interval between checkpoints that costs least: Young's sqrt(2 x stall x mean time between faults)."""
    return max(setting.commit_s, math.sqrt(2 * max(setting.stall_s, 0.1) * setting.mtbf_s))


class Simulation:
    """One run, from its first attempt to its end."""

    def __init__(self, setting: Setting, seed: int) -> None:
        """Make one; equal arguments give equal results."""
        self._setting = setting
        self._random = random.Random(seed)
        self._run = document(setting.policy)
        self._back_off = BackOff(setting.first_wait_s, jitter=self._random.random())
        self._faults = iter(setting.faults_s)
        self._need = setting.days * DAY
        self._now = self._saved = 0.0
        self._repaired: list[float] = []
        self._failures = 0
        self._reached = self._lost = self._waited = self._away = self._queued = 0.0

    def execute(self) -> Result:
        """Run to the end."""
        status, attempts = RunStatus(), tuple[Attempt, ...]()
        for _ in range(MOST_EVENTS):
            decided = plan(self._run, Observed(attempts), self._now, status=status, back_off=self._back_off)
            status = decided.status
            if status.state in FINAL or self._now > self._setting.most_days * DAY:
                break
            start = next((action for action in decided.actions if isinstance(action, Start)), None)
            if start is not None:
                attempts = (self._attempt(start),)
                continue
            assert decided.wake_at is not None
            assert decided.wake_at > self._now
            self._waited, self._now = self._waited + decided.wake_at - self._now, decided.wake_at
        return self._result(status)

    def _attempt(self, start: Start) -> Attempt:
        """Play one attempt until it ends."""
        setting, began = self._setting, self._now
        fault_s = self._fault_after()
        hours = setting.preempted_every_h
        preempted_s = self._random.expovariate(1 / (hours * 3600)) if hours else math.inf
        slower = 1 + setting.stall_s / setting.checkpoint_s
        end_s = setting.startup_s + (self._need - self._saved) * slower
        if min(fault_s, preempted_s) >= end_s:
            self._now, self._saved = began + end_s, self._need
            return self._ended(start, began, AttemptState.SUCCEEDED)
        if preempted_s < fault_s:
            self._work(max(0.0, preempted_s - setting.startup_s) / slower, saves=preempted_s > setting.startup_s)
            self._now = began + preempted_s + setting.grace_s
            ended = self._ended(
                start, began, AttemptState.FAILED, exit_code=143, infrastructure=True, reason="Preempted"
            )
            self._wait_for_nodes()
            return ended
        self._work(max(0.0, fault_s - setting.startup_s) / slower)
        return self._fault(start, began, fault_s)

    def _fault_after(self) -> float:
        """Seconds from the start of an attempt to its fault."""
        setting = self._setting
        if setting.faults_s:
            slower = 1 + setting.stall_s / setting.checkpoint_s
            return setting.startup_s + next(self._faults, math.inf) * slower
        return setting.fault_after_s or self._random.expovariate(setting.gpus / (setting.gpu_hours_per_fault * 3600))

    def _fault(self, start: Start, began: float, fault_s: float) -> Attempt:
        mix = self._setting.mix
        kind = mix[0]
        if self._setting.fault_after_s is None:
            kind = self._random.choices(mix, [each.share for each in mix])[0]
        self._failures += 1
        self._now = began + fault_s + kind.found_s
        code = None if kind.infrastructure else 75
        failed_at = None if kind.infrastructure else int(self._reached / STEP_S) + 1
        ended = self._ended(
            start, began, AttemptState.FAILED, exit_code=code, infrastructure=kind.infrastructure, failed_at=failed_at
        )
        if kind.takes_node:
            self._take_node()
        return ended

    def _work(self, seconds: float, *, saves: bool = False) -> None:
        """Train for some seconds; what no checkpoint holds is lost."""
        every = self._setting.checkpoint_s
        count = math.floor(max(0.0, seconds - self._setting.commit_s) / every)
        kept = seconds if saves else min(seconds, count * every)
        self._reached = self._saved + seconds
        self._lost += seconds - kept
        self._saved += kept

    def _ended(self, start: Start, began: float, state: AttemptState, **how: Any) -> Attempt:
        work = CommittedWork(int(self._saved / STEP_S), int(self._saved)) if self._saved else None
        return Attempt(Stage.TRAIN, start.number, state, work=work, started_at=began, ended_at=self._now, **how)

    def _take_node(self) -> None:
        """A node is away; a spare takes its place if one is left, else the gang waits for the first repair."""
        self._repaired = [at for at in self._repaired if at > self._now]
        self._repaired.append(self._now + self._random.expovariate(1 / (self._setting.repair_h * 3600)))
        if len(self._repaired) > self._setting.spares:
            wait_s = min(self._repaired) - self._now
            self._away, self._now = self._away + wait_s, self._now + wait_s

    def _wait_for_nodes(self) -> None:
        if self._setting.queue_s:
            wait_s = self._random.expovariate(1 / self._setting.queue_s)
            self._queued, self._now = self._queued + wait_s, self._now + wait_s

    def _result(self, status: RunStatus) -> Result:
        record = next(iter(status.stages), StageRecord(Stage.TRAIN))
        held = self._now - self._queued
        return Result(
            state=str(status.state),
            reason=str(status.reason or ""),
            days=self._now / DAY,
            effective=self._saved / held if held else 0.0,
            failures=record.total_restarts + (status.state == "Failed"),
            lost_h=self._lost / 3600,
            waited_h=self._waited / 3600,
            repaired_h=self._away / 3600,
            queued_h=self._queued / 3600,
        )
