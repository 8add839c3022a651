"""What a run needs next: a table of situations, and whole stories played against a small world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, attempt_name
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.plan import Expire, Observed, Start, Stop, plan
from diht_k8s.pipeline.run_status import Failure, RunState, RunStatus, StageRecord
from tests.unit.pipeline.situations import (
    BEFORE_T,
    DONE_F,
    FAILED,
    PENDING,
    RUN_F,
    RUN_T,
    RUNNING,
    SUCCEEDED,
    E,
    F,
    L,
    T,
    at,
    attempt,
    make_run,
)

SITUATIONS = [
    # id, run, status, observed, actions, what the stage and the run are then
    (
        "cached stages are skipped",
        {},
        RunStatus(),
        Observed(cached=frozenset({F, L})),
        [Start(T, 1, "r-train-1")],
        L,
        StageState.CACHED,
        RunState.RUNNING,
    ),
    ("all cached", {}, RunStatus(), Observed(cached=frozenset(Stage)), [], E, StageState.CACHED, RunState.COMPLETE),
    (
        "an attempt is there that the status lacks",
        {},
        RunStatus(),
        Observed((attempt(F, 1, RUNNING),)),
        [],
        F,
        StageState.RUNNING,
        RunState.RUNNING,
    ),
    (
        "a start that was lost is made again under its name",
        {},
        at(RUN_F),
        Observed(),
        [Start(F, 1, "r-filter-1")],
        F,
        StageState.RUNNING,
        RunState.RUNNING,
    ),
    (
        "a finished stage may vanish",
        {},
        at(DONE_F),
        Observed(),
        [Start(L, 1, "r-label-1")],
        F,
        StageState.COMPLETE,
        RunState.RUNNING,
    ),
    (
        "out of memory twice",
        {},
        at(*BEFORE_T, replace(RUN_T, out_of_memory=1)),
        Observed((attempt(T, 3, FAILED, 137, reason="OOMKilled"),)),
        [],
        T,
        StageState.FAILED,
        RunState.FAILED,
    ),
    (
        "out of memory once",
        {},
        at(*BEFORE_T, RUN_T),
        Observed((attempt(T, 3, FAILED, 137, reason="OOMKilled"),)),
        [],
        T,
        StageState.RESTARTING,
        RunState.RUNNING,
    ),
    (
        "one worker had a transient error, the others are stopped before the next attempt",
        {},
        at(RUN_F),
        Observed((attempt(F, 1, FAILED, 75, active=3),)),
        [Stop(F, 1, "r-filter-1")],
        F,
        StageState.RESTARTING,
        RunState.RUNNING,
    ),
    (
        "the next attempt waits for programs that were asked to end",
        {},
        at(StageRecord(F, StageState.RESTARTING, 1, restarts=1, not_before=99.0)),
        Observed((attempt(F, 1, FAILED, 75, active=1, ending=True),)),
        [],
        F,
        StageState.RESTARTING,
        RunState.RUNNING,
    ),
    (
        "a request to stop is passed on",
        {},
        at(RUN_F),
        Observed((attempt(F, 1, RUNNING),), stop_requested=True),
        [Stop(F, 1, "r-filter-1")],
        F,
        StageState.RUNNING,
        RunState.RUNNING,
    ),
    (
        "a request to stop ends the run",
        {},
        at(RUN_F),
        Observed((attempt(F, 1, FAILED, 143),), stop_requested=True),
        [],
        F,
        StageState.STOPPED,
        RunState.STOPPED,
    ),
    (
        "nothing starts after a request to stop",
        {},
        at(RUN_F),
        Observed((attempt(F, 1, SUCCEEDED),), stop_requested=True),
        [],
        F,
        StageState.COMPLETE,
        RunState.STOPPED,
    ),
    (
        "suspended, and the attempt was removed",
        {"suspend": True},
        at(RUN_F),
        Observed(),
        [],
        F,
        StageState.STOPPED,
        RunState.SUSPENDED,
    ),
    (
        "suspended from the start",
        {"suspend": True},
        RunStatus(),
        Observed(),
        [],
        F,
        StageState.PENDING,
        RunState.SUSPENDED,
    ),
    (
        "resumed before all had stopped",
        {},
        at(StageRecord(F, StageState.STOPPED, 1)),
        Observed((attempt(F, 1, FAILED, 143),)),
        [Start(F, 2, "r-filter-2")],
        F,
        StageState.RUNNING,
        RunState.RUNNING,
    ),
    (
        "resumed while a program still ends",
        {},
        at(StageRecord(F, StageState.STOPPED, 1)),
        Observed((attempt(F, 1, FAILED, 143, active=1, ending=True),)),
        [],
        F,
        StageState.RESTARTING,
        RunState.RUNNING,
    ),
    (
        "a complete run does nothing though its attempts are gone",
        {},
        at(*(StageRecord(s, StageState.COMPLETE, 1) for s in Stage), state=RunState.COMPLETE),
        Observed(),
        [],
        F,
        StageState.COMPLETE,
        RunState.COMPLETE,
    ),
]


@pytest.mark.parametrize(
    ("status", "observed", "actions", "stage", "stage_state", "run_state", "spec"),
    [(*situation[2:], situation[1]) for situation in SITUATIONS],
    ids=[str(situation[0]) for situation in SITUATIONS],
)
def test_plan_in_a_situation_decides_and_counts_nothing_twice(
    status: RunStatus,
    observed: Observed,
    actions: list[Start | Stop],
    stage: Stage,
    stage_state: StageState,
    run_state: RunState,
    spec: dict[str, Any],
) -> None:
    run = make_run(**spec)
    decided = plan(run, observed, 100.0, status=status)
    assert list(decided.actions) == actions
    assert (decided.status.of(stage).state, decided.status.state) == (stage_state, run_state)
    again = plan(run, observed, 100.0, status=decided.status)
    assert again.status == decided.status
    assert {action for action in again.actions if isinstance(action, Start)} <= set(actions)


@pytest.mark.parametrize(
    ("codes", "state"),
    [
        ((2, 64, 65, 127), StageState.FAILED),
        ((None, 1, 75, 137), StageState.RESTARTING),
        ((143,), StageState.STOPPED),
    ],
)
def test_exit_code_decides_what_becomes_of_a_stage(codes: tuple[int | None, ...], state: StageState) -> None:
    ends = [Observed((attempt(F, 1, FAILED, code),)) for code in codes]
    assert {plan(make_run(), end, 100.0, status=at(RUN_F)).status.of(F).state for end in ends} == {state}


def test_back_off_doubles_up_to_a_limit() -> None:
    back_off = BackOff(first_s=2, most_s=10)
    assert [back_off.delay_s(restarts) for restarts in (1, 2, 3, 4, 500)] == [2, 4, 8, 10, 10]


def test_jitter_lengthens_a_wait_by_up_to_a_quarter() -> None:
    assert [BackOff(first_s=2, most_s=10, jitter=jitter).delay_s(1) for jitter in (0.0, 0.5, 1.0)] == [2, 2.25, 2.5]


def test_lost_pods_are_replaced_at_once_until_the_fourth() -> None:
    lost = Observed((attempt(T, 3, FAILED, 143, infrastructure=True),))
    records = [at(*BEFORE_T, replace(RUN_T, infrastructure_restarts=used)) for used in range(4)]
    waits = [plan(make_run(), lost, 100.0, status=record).status.of(T).not_before for record in records]
    assert waits == [None, None, None, 101.0]  # None: started already


def test_plan_while_backing_off_says_when_to_plan_again() -> None:
    decided = plan(make_run(), Observed((attempt(F, 1, FAILED, 75),)), 100.0, status=at(RUN_F), back_off=BackOff(8, 60))
    assert decided.wake_at == decided.status.of(F).not_before == 108.0
    assert plan(make_run(), Observed(), 107.0, status=decided.status).actions == ()


@pytest.mark.parametrize(("set_back_s", "starts"), [(3.0, False), (3600.0, True)])
def test_clock_that_was_set_back_does_not_lengthen_a_wait(set_back_s: float, starts: bool) -> None:
    status = at(StageRecord(F, StageState.RESTARTING, 1, restarts=1, not_before=104.0))
    decided = plan(make_run(), Observed(), 104.0 - set_back_s, status=status, back_off=BackOff(8, 60))
    assert list(decided.actions) == ([Start(F, 2, "r-filter-2")] if starts else [])


def test_plan_until_a_stage_ends_there() -> None:
    decided = plan(make_run(), Observed(cached=frozenset({F, L})), 100.0, status=RunStatus(), until=L)
    assert (decided.actions, decided.status.state) == ((), RunState.COMPLETE)


def test_a_failed_run_carries_the_programs_code_and_words() -> None:
    failed = attempt(F, 1, FAILED, 65, reason="DataError", message="web-0: 3 of 4 samples are bad")
    status = plan(make_run(), Observed((failed,)), 100.0, status=at(RUN_F)).status
    assert (status.exit_code, status.message) == (65, "filter: web-0: 3 of 4 samples are bad")
    assert status.of(F).failure == Failure(65, "DataError", "web-0: 3 of 4 samples are bad")


def test_a_run_without_restarts_left_says_so() -> None:
    run = make_run(failurePolicy={"maxRestarts": 1})
    status = plan(
        run, Observed((attempt(T, 3, FAILED, 75, message="no answer"),)), 1.0, status=at(*BEFORE_T, RUN_T)
    ).status
    assert status.message == "train: no answer (restarted 1 times, failurePolicy.maxRestarts)"


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (attempt(T, 3, FAILED, 137, reason="OOMKilled", message="killed"), "train: killed"),
        (attempt(T, 3, FAILED, 64, message="no such model"), "train: no such model"),
        (attempt(T, 3, FAILED, 75, message="m"), "train: m (restarted 2 times, failurePolicy.maxRestarts)"),
    ],
    ids=["memory", "user error", "budget"],
)
def test_run_names_its_budget_only_where_that_ended_it(seen: Attempt, message: str) -> None:
    record = replace(RUN_T, restarts=2, out_of_memory=1)
    left = 5 if seen.reason == "OOMKilled" else 2
    decided = plan(make_run(failurePolicy={"maxRestarts": left}), Observed((seen,)), 1.0, status=at(*BEFORE_T, record))
    assert decided.status.message == message


@pytest.mark.parametrize(("words", "says"), [("node-1 shuts down", "node-1 shuts down"), ("", "stopped on request")])
def test_stopped_run_repeats_what_its_program_said(words: str, says: str) -> None:
    stopped = attempt(F, 1, FAILED, 143, message=words)
    assert plan(make_run(), Observed((stopped,)), 1.0, status=at(RUN_F)).status.message == f"filter: {says}"


def test_attempt_names_fit_into_kubernetes() -> None:
    assert attempt_name("r", T, 2) == "r-train-2"
    assert len(attempt_name("x" * 40, E, 9999)) + len("-9999") <= 63


def test_gang_that_started_partially_is_withdrawn_and_comes_back_later() -> None:
    run = make_run(failurePolicy={"maxRestarts": 0, "schedulingTimeoutSeconds": 60})
    partial = attempt(T, 3, PENDING, partially_started_at=50.0)
    waits = plan(run, Observed((partial,)), 109.0, status=at(*BEFORE_T, RUN_T))
    assert (waits.actions, waits.wake_at) == ((), 110.0)
    gone = plan(run, Observed((partial,)), 110.0, status=waits.status, back_off=BackOff(8, 60))
    assert gone.actions == (Stop(T, 3, "r-train-3"),)
    stage = gone.status.of(T)
    assert (stage.state, stage.infrastructure_restarts, stage.not_before) == (StageState.RESTARTING, 1, 118.0)
    assert stage.failure is not None
    assert stage.failure.reason == "SchedulingTimeout"
    again = plan(run, Observed(), 118.0, status=gone.status)
    assert again.actions == (Start(T, 4, "r-train-4"),)


def test_many_lost_nodes_are_no_busy_loop() -> None:
    status = at(*BEFORE_T, replace(RUN_T, infrastructure_restarts=40))
    lost = attempt(T, 3, FAILED, 143, infrastructure=True)
    assert plan(make_run(), Observed((lost,)), 100.0, status=status).status.of(T).not_before == 115.0


@pytest.mark.parametrize("asked", [True, False], ids=["a person asked", "somebody else stopped the program"])
def test_stopped_run_has_an_end_expires_and_can_be_retried(asked: bool) -> None:
    run = make_run(ttlSecondsAfterFinished=60)
    stopped = attempt(F, 1, FAILED, 143)
    ended = plan(run, Observed((stopped,), stop_requested=asked), 100.0, status=at(RUN_F))
    assert (ended.status.state, ended.status.ended_at) == (RunState.STOPPED, 100.0)
    later = plan(run, Observed((stopped,)), 130.0, status=ended.status)
    assert (later.status.ended_at, later.wake_at) == (100.0, 160.0)
    assert Expire() in plan(run, Observed((stopped,)), 160.0, status=ended.status).actions
    again = plan(run, Observed((stopped,), retry_requested=True), 130.0, status=ended.status)
    assert again.actions == (Start(F, 2, "r-filter-2"),)


def test_attempt_in_which_no_program_ended_has_no_exit_code() -> None:
    lost = attempt(F, 1, FAILED, None, infrastructure=True, reason="NodeLost", message="m")
    assert plan(make_run(), Observed((lost,)), 100.0, status=at(RUN_F)).status.of(F).failure == Failure(
        None, "NodeLost", "m", infrastructure=True
    )
    no_more = make_run(failurePolicy={"maxInfrastructureRestarts": 0})
    ended = plan(no_more, Observed((lost,)), 100.0, status=at(RUN_F)).status
    assert (ended.state, ended.exit_code) == (RunState.FAILED, 1)


def test_run_expires_after_its_time_to_live() -> None:
    run = make_run(ttlSecondsAfterFinished=60)
    ended = replace(at(StageRecord(F, StageState.FAILED, 1), state=RunState.FAILED), ended_at=100.0)
    assert plan(run, Observed(), 159.0, status=ended).wake_at == 160.0
    assert plan(run, Observed(), 160.0, status=ended).actions == (Expire(),)
    assert plan(make_run(), Observed(), 1e9, status=ended).actions == ()


def test_run_that_ends_wakes_for_the_end_of_its_time_to_live() -> None:
    run = make_run(ttlSecondsAfterFinished=60)
    before = at(*(StageRecord(s, StageState.COMPLETE, 1) for s in (F, L, T)), StageRecord(E, StageState.RUNNING, 1))
    decided = plan(run, Observed((attempt(E, 1, SUCCEEDED),)), 100.0, status=before)
    assert (decided.status.state, decided.wake_at) == (RunState.COMPLETE, 160.0)


def test_plan_wakes_for_the_deadline() -> None:
    run = make_run(activeDeadlineSeconds=50)
    assert plan(run, Observed((attempt(F, 1, RUNNING, started_at=0.0),)), 10.0, status=at(RUN_F)).wake_at == 50.0


@pytest.mark.parametrize(
    ("status", "seen", "spec", "reason"),
    [
        (at(RUN_F), attempt(F, 1, FAILED, 64), {}, Reason.USER_ERROR),
        (at(RUN_F), attempt(F, 1, FAILED, 128, reason="StartError"), {}, Reason.USER_ERROR),
        (at(RUN_F), attempt(F, 1, FAILED, 65), {}, Reason.BAD_DATA),
        (at(RUN_F), attempt(F, 1, FAILED, 75), {"failurePolicy": {"maxRestarts": 0}}, Reason.RESTARTS_EXHAUSTED),
        (
            at(RUN_F),
            attempt(F, 1, FAILED, 143, infrastructure=True),
            {"failurePolicy": {"maxInfrastructureRestarts": 0}},
            Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED,
        ),
        (at(replace(RUN_F, out_of_memory=1)), attempt(F, 1, FAILED, 137, reason="OOMKilled"), {}, Reason.OUT_OF_MEMORY),
        (at(RUN_F), attempt(F, 1, RUNNING, started_at=0.0), {"activeDeadlineSeconds": 5}, Reason.DEADLINE_EXCEEDED),
    ],
)
def test_failed_run_says_why_for_machines(
    status: RunStatus, seen: Attempt, spec: dict[str, Any], reason: Reason
) -> None:
    decided = plan(make_run(**spec), Observed((seen,)), 100.0, status=status)
    assert (decided.status.state, decided.status.reason, decided.status.ended_at) == (RunState.FAILED, reason, 100.0)
