"""Budgets that committed work refills: tables over single decisions, simulated months, and a state machine over
plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from benchmarks._effective_time import Setting, Simulation, document
from benchmarks.effective_time import NEVER_S, ended_by_budget, simulate
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork
from diht_k8s.pipeline.plan import Observed, Start, plan
from diht_k8s.pipeline.run_status import FINAL, RunStatus, StageRecord

T, H = Stage.TRAIN, 3600
RUNNING = StageRecord(T, StageState.RUNNING, 3, restarts=4, total_restarts=9, infrastructure_restarts=2)


def after(record: StageRecord, *, work: CommittedWork | None, **policy: Any) -> StageRecord:
    """The record after its running attempt reported some work, twice."""
    run, status = document(policy), RunStatus(stages=(record,), started_at=0.0)
    observed = Observed((Attempt(T, 3, AttemptState.RUNNING, active=1, work=work),))
    once = plan(run, observed, 100.0, status=status).status
    assert plan(run, observed, 100.0, status=once).status == once
    return once.of(T)


@pytest.mark.parametrize(
    ("record", "work", "policy", "restarts", "infrastructure"),
    [
        (RUNNING, None, {}, 4, 2),
        (RUNNING, CommittedWork(10, H - 1), {}, 4, 2),
        (RUNNING, CommittedWork(10, H), {}, 3, 1),
        (RUNNING, CommittedWork(10, 99 * H), {}, 0, 0),
        (RUNNING, CommittedWork(10, 60), {"healSeconds": 30}, 2, 0),
        (replace(RUNNING, work=CommittedWork(10, 0)), CommittedWork(10, 9 * H), {}, 4, 2),
        (replace(RUNNING, work=CommittedWork(10, 0)), CommittedWork(9, 9 * H), {}, 4, 2),
        (replace(RUNNING, failed_at=11), CommittedWork(10, 9 * H), {}, 4, 2),
        (replace(RUNNING, failed_at=11), CommittedWork(11, 9 * H), {}, 0, 0),
        (replace(RUNNING, healed_until=2 * H), CommittedWork(10, 3 * H), {}, 3, 0),
        (
            replace(RUNNING, work=CommittedWork(10, 5 * H), healed_until=5 * H, infrastructure_healed_until=5 * H),
            CommittedWork(20, H),
            {},
            4,
            2,
        ),
    ],
    ids=[
        "nothing reported",
        "less than an hour",
        "an hour",
        "more than was used",
        "another healSeconds",
        "same position",
        "steps trained again",
        "before the step that failed",
        "beyond the step that failed",
        "the remainder stays",
        "less time than before",
    ],
)
def test_committed_work_gives_restarts_back(
    record: StageRecord, work: CommittedWork | None, policy: dict[str, Any], restarts: int, infrastructure: int
) -> None:
    found = after(record, work=work, **policy)
    assert (found.restarts, found.infrastructure_restarts, found.total_restarts) == (restarts, infrastructure, 9)


@pytest.mark.parametrize(
    ("how", "restarts", "infrastructure", "failed_at"),
    [
        ({"exit_code": 75}, 5, 2, 1),
        ({"exit_code": 75, "failed_at": 70}, 5, 2, 70),
        ({"exit_code": 75, "failed_at": 70, "work": CommittedWork(80, H)}, 4, 1, 70),
        ({"infrastructure": True}, 4, 3, 0),
    ],
    ids=["unknown step", "named step", "with the last checkpoint", "lost node"],
)
def test_failure_takes_a_restart_after_its_last_checkpoint_is_counted(
    how: dict[str, Any], restarts: int, infrastructure: int, failed_at: int
) -> None:
    status = RunStatus(stages=(RUNNING,), started_at=0.0)
    found = plan(document({}), Observed((Attempt(T, 3, AttemptState.FAILED, **how),)), 9.0, status=status).status.of(T)
    assert (found.restarts, found.infrastructure_restarts, found.failed_at) == (restarts, infrastructure, failed_at)
    assert found.total_restarts == 10


def test_memory_kills_that_work_has_paid_for_no_longer_end_the_run() -> None:
    record = after(replace(RUNNING, out_of_memory=1), work=CommittedWork(10, 99 * H))
    assert record.out_of_memory == 0


@pytest.mark.parametrize(("policy", "ends"), [({}, 0), ({"healSeconds": NEVER_S}, 10)], ids=["healing", "old rule"])
def test_simulated_month_of_healthy_trainings_ends_no_run_by_budget(policy: dict[str, Any], ends: int) -> None:
    results = simulate(Setting(1024, policy=policy), 40)
    assert (ended_by_budget(results) >= ends) if ends else ended_by_budget(results) == 0


def test_simulated_month_on_8000_gpus_trains_most_of_the_time() -> None:
    results = simulate(Setting(8000, spares=5, checkpoint_s=478.0), 5)
    assert {result.state for result in results} == {"Complete"}
    assert min(result.effective for result in results) > 0.94


@pytest.mark.parametrize(
    ("fails_after_s", "failures"), [(1260.0, 14), (90.0, 11)], ids=["after a checkpoint", "before any checkpoint"]
)
def test_crash_loop_ends(fails_after_s: float, failures: int) -> None:
    result = Simulation(Setting(8, fault_after_s=fails_after_s), 0).execute()
    assert (result.reason, result.failures) == ("RestartsExhausted", failures)


class Runs(RuleBasedStateMachine):
    """A training that starts, commits work and ends in any way, under a plan that is asked at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.run = document({"maxRestarts": 3, "maxInfrastructureRestarts": 4, "healSeconds": 50})
        self.status, self.now = RunStatus(), 0.0
        self.world: dict[str, Attempt] = {}
        self.done = self.seconds = 0

    @property
    def living(self) -> list[str]:
        return [name for name, attempt in self.world.items() if attempt.active]

    @rule(wait=st.integers(0, 400))
    def reconcile(self, wait: int) -> None:
        self.now += wait
        decided = plan(self.run, Observed(tuple(self.world.values())), self.now, status=self.status)
        self.status = decided.status
        for action in decided.actions:
            if isinstance(action, Start):
                attempt = Attempt(T, action.number, AttemptState.RUNNING, active=1, started_at=self.now)
                self.world.setdefault(action.name, attempt)

    @precondition(lambda self: self.living)
    @rule(steps=st.integers(1, 100))
    def commit(self, steps: int) -> None:
        self.now += steps
        self.done, self.seconds = self.done + steps, self.seconds + steps
        name = self.living[0]
        self.world[name] = replace(self.world[name], work=CommittedWork(self.done, self.seconds))

    @precondition(lambda self: self.living)
    @rule(infrastructure=st.booleans(), step=st.none() | st.integers(0, 300))
    def fail(self, infrastructure: bool, step: int | None) -> None:
        name = self.living[0]
        how = {"exit_code": 75, "infrastructure": infrastructure, "failed_at": step, "ended_at": self.now}
        self.world[name] = replace(self.world[name], state=AttemptState.FAILED, active=0, **how)

    @precondition(lambda self: self.living)
    @rule()
    def vanish(self) -> None:
        del self.world[self.living[0]]

    @invariant()
    def never_two_attempts_at_once(self) -> None:
        assert len(self.living) <= 1

    @invariant()
    def budgets_stay_within_their_limits(self) -> None:
        for record in self.status.stages:
            assert 0 <= record.restarts <= 3
            assert 0 <= record.infrastructure_restarts <= 4
            assert record.total_restarts >= record.restarts + record.infrastructure_restarts
        assert 0 <= self.status.ran_seconds <= self.now

    def teardown(self) -> None:
        """Whatever came before, a run that only fails from now on ends."""
        for _ in range(60):
            if self.status.state in FINAL:
                return
            self.reconcile(400)
            if self.living:
                self.fail(infrastructure=False, step=None)
        assert self.status.state in FINAL


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=60, stateful_step_count=30)
