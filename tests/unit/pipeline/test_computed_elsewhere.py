"""A gang that finds its training computed by another run: it gives its GPUs back, waits in one pod, and counts
nothing.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from diht_k8s.api.reports import COMMITTED
from diht_k8s.api.run import DihtRun
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, AttemptTimes
from diht_k8s.pipeline.goodput import paused, time_parts, with_goodput
from diht_k8s.pipeline.plan import Observed, RunPlan, Start, Stop, plan
from diht_k8s.pipeline.run_status import Failure, RunState, RunStatus, StageRecord
from tests.unit.pipeline.situations import BEFORE_T, FAILED, PENDING, RUN_T, RUNNING, SUCCEEDED, E, T, at, make_run
from tests.unit.pipeline.situations import attempt as seen

WHY = Failure(75, "ComputedElsewhere", "this training is computed by run b: start again to take its result")
LEFT = seen(T, 3, FAILED, 75, reason=WHY.reason, message=WHY.message)
WAITS = replace(RUN_T, attempt=4, failure=WHY)
"""The record while attempt 4 waits."""


def waiting(state: AttemptState, code: int | None = None, number: int = 4, **more: Any) -> Attempt:
    return seen(T, number, state, code, step="wait", **more)


def planned(record: StageRecord, *attempts: Attempt, run: DihtRun | None = None, **more: Any) -> RunPlan:
    return plan(run or make_run(), Observed(attempts), 100.0, status=at(*BEFORE_T, record, **more))


WAIT_AGAIN, GANG = Start(T, 5, "r-wait-5", "wait"), Start(T, 5, "r-train-5")
SITUATIONS = [
    # id, record, observed, actions, state of the stage then
    ("a gang leaves: the next attempt waits", RUN_T, [LEFT], [Start(T, 4, "r-wait-4", "wait")], StageState.RUNNING),
    (
        "its other programs end first",
        RUN_T,
        [replace(LEFT, active=1)],
        [Stop(T, 3, "r-train-3")],
        StageState.RESTARTING,
    ),
    ("waits in a queue", WAITS, [LEFT, waiting(PENDING)], [], StageState.RUNNING),
    ("waits", WAITS, [LEFT, waiting(RUNNING)], [], StageState.RUNNING),
    (
        "a start that was lost is made again under its name",
        WAITS,
        [LEFT],
        [Start(T, 4, "r-wait-4", "wait")],
        StageState.RUNNING,
    ),
    ("the training is free: the gang starts again", WAITS, [LEFT, waiting(SUCCEEDED)], [GANG], StageState.RUNNING),
    (
        "a gang's start that was lost is made again",
        replace(WAITS, attempt=5, failure=None),
        [waiting(SUCCEEDED)],
        [GANG],
        StageState.RUNNING,
    ),
    (
        "the training is committed: no gang is needed",
        WAITS,
        [waiting(SUCCEEDED, reason=COMMITTED)],
        [Start(E, 1, "r-evaluate-1")],
        StageState.CACHED,
    ),
    (
        "a gang that says so is no wait",
        RUN_T,
        [seen(T, 3, SUCCEEDED, reason=COMMITTED)],
        [Start(E, 1, "r-evaluate-1")],
        StageState.COMPLETE,
    ),
    (
        "its node is lost: another one waits",
        WAITS,
        [waiting(FAILED, infrastructure=True, reason="NodeLost")],
        [WAIT_AGAIN],
        StageState.RUNNING,
    ),
    ("it fails: another one waits after the back-off", WAITS, [waiting(FAILED, 75)], [], StageState.RESTARTING),
    (
        "which then is over",
        replace(WAITS, state=StageState.RESTARTING, not_before=99.0),
        [waiting(FAILED, 75)],
        [WAIT_AGAIN],
        StageState.RUNNING,
    ),
    ("a user error fails at once", WAITS, [waiting(FAILED, 64)], [], StageState.FAILED),
]


@pytest.mark.parametrize(
    ("record", "observed", "actions", "state"),
    [each[1:] for each in SITUATIONS],
    ids=[str(each[0]) for each in SITUATIONS],
)
def test_plan_of_a_training_that_another_run_computes(
    record: StageRecord, observed: list[Attempt], actions: list[Start | Stop], state: StageState
) -> None:
    decided = planned(record, *observed)
    assert (list(decided.actions), decided.status.of(T).state) == (actions, state)
    again = plan(make_run(), Observed(tuple(observed)), 100.0, status=decided.status)
    assert again.status == decided.status


def counts(record: StageRecord) -> tuple[int, ...]:
    return record.restarts, record.infrastructure_restarts, record.total_restarts, record.failed_at


def test_leaving_and_waiting_count_towards_nothing_and_double_no_back_off() -> None:
    strict = make_run(failurePolicy={"maxRestarts": 1, "maxInfrastructureRestarts": 0})
    decided = planned(RUN_T, LEFT, run=strict)
    assert (decided.status.of(T).not_before, decided.status.of(T).failure) == (None, WHY)
    assert counts(decided.status.of(T)) == counts(RUN_T)
    done = planned(decided.status.of(T), LEFT, waiting(SUCCEEDED), run=strict).status.of(T)
    assert (counts(done), done.failure, done.attempt) == (counts(RUN_T), None, 5)


def test_lost_wait_counts_as_an_infrastructure_restart_and_keeps_why_it_waits() -> None:
    lost = planned(WAITS, waiting(FAILED, infrastructure=True, reason="NodeLost")).status.of(T)
    assert (lost.restarts, lost.infrastructure_restarts, lost.failure) == (WAITS.restarts, 1, WHY)
    none_left = make_run(failurePolicy={"maxInfrastructureRestarts": 0})
    ended = planned(WAITS, waiting(FAILED, infrastructure=True, reason="NodeLost", message="m"), run=none_left)
    assert (ended.status.state, ended.status.message) == (RunState.FAILED, "train: m")


@pytest.mark.parametrize(
    ("record", "observed", "resumes_with"),
    [
        (RUN_T, [LEFT], Start(T, 4, "r-wait-4", "wait")),
        (WAITS, [LEFT, waiting(FAILED, 143)], WAIT_AGAIN),
        (WAITS, [LEFT, waiting(SUCCEEDED)], GANG),
    ],
    ids=["before it waits", "while it waits", "after it has waited"],
)
def test_suspended_run_goes_on_where_it_was(record: StageRecord, observed: list[Attempt], resumes_with: Start) -> None:
    paused = planned(record, *observed, run=make_run(suspend=True))
    assert (paused.actions, paused.status.state) == ((), RunState.SUSPENDED)
    resumed = plan(make_run(), Observed(tuple(observed)), 101.0, status=paused.status)
    assert resumed.actions == (resumes_with,)


def test_waiting_is_no_running_time_and_reaches_no_deadline() -> None:
    run = make_run(activeDeadlineSeconds=50)
    left = replace(LEFT, started_at=10.0, ended_at=30.0)
    decided = plan(run, Observed((left, waiting(RUNNING, started_at=31.0))), 1e6, status=at(*BEFORE_T, WAITS))
    assert (decided.status.state, decided.status.ran_seconds, decided.wake_at) == (RunState.RUNNING, 20, None)


def moments(created: float, *later: float, ended: float | None = None) -> AttemptTimes:
    return AttemptTimes(created, *later, ended=ended)


@pytest.mark.parametrize(
    ("paused_before", "expected"),
    [
        (False, {"waiting_for_run": (25 - 5) + (531 - 25), "queued": 11, "scheduling": 3}),
        (True, {"waiting_for_run": (25 - 5) + (531 - 27), "queued": 11, "scheduling": 3, "suspended": 2}),
    ],
    ids=["at once", "suspended in between"],
)
def test_time_until_the_other_run_has_ended_is_neither_lost_nor_recovered_from(
    paused_before: bool, expected: dict[str, float]
) -> None:
    left = replace(LEFT, number=1, times=moments(0, 1, 3, 5, ended=25))
    wait = waiting(SUCCEEDED, number=2, times=moments(27, 28, 30, 31, ended=531))
    gang = seen(T, 3, RUNNING, times=moments(531, 541, 542, 552))
    status = with_goodput(RunStatus(stages=(StageRecord(T),)), [left])
    if paused_before:
        status = replace(status, stages=(replace(status.of(T), time=paused(status.of(T).time)),))
    for _ in range(2):
        status = with_goodput(status, [left, wait, gang])
    parts = time_parts(status.of(T).time)
    assert {name: seconds for name, seconds in asdict(parts).items() if seconds} == {**expected, "starting": 12}
