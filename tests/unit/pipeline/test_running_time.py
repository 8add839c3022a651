"""Running time: what counts towards the deadline, however often and whenever somebody looks."""

from __future__ import annotations

import pytest

from benchmarks._effective_time import document
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.plan import Observed, plan
from diht_k8s.pipeline.run_status import RunStatus, StageRecord, running_seconds, with_running_time

T = Stage.TRAIN
PENDING, RUNNING, FAILED = AttemptState.PENDING, AttemptState.RUNNING, AttemptState.FAILED


def seen(
    number: int, state: AttemptState, started: float | None = None, ended: float | None = None, *, active: int = 1
) -> Attempt:
    active = 0 if state is FAILED else active
    return Attempt(T, number, state, active=active, started_at=started, ended_at=ended)


QUEUED = seen(1, PENDING, ended=0.0)
STORIES: list[tuple[str, list[tuple[float, list[Attempt]]], float]] = [
    ("never admitted", [(0, [QUEUED]), (9000, [QUEUED])], 0),
    ("admitted late", [(0, [QUEUED]), (5000, [seen(1, RUNNING, 4000)]), (5100, [seen(1, RUNNING, 4000)])], 1100),
    ("nobody looked while it ran", [(9000, [seen(1, FAILED, 100, 400)])], 300),
    ("the same end is seen again", [(9000, [seen(1, FAILED, 100, 400)])] * 3, 300),
    (
        "back to the queue",
        [(200, [seen(1, RUNNING, 100)]), (900, [seen(1, PENDING, ended=300)]), (5000, [seen(1, PENDING, ended=300)])],
        200,
    ),
    (
        "admitted a second time",
        [(200, [seen(1, RUNNING, 100)]), (900, [seen(1, PENDING, ended=300)]), (1500, [seen(1, RUNNING, 1000)])],
        700,
    ),
    (
        "two attempts and a wait",
        [
            (200, [seen(1, RUNNING, 100)]),
            (250, [seen(1, FAILED, 100, 220)]),
            (400, [seen(1, FAILED, 100, 220), seen(2, RUNNING, 300)]),
        ],
        220,
    ),
    ("suspended", [(200, [seen(1, RUNNING, 100)]), (300, [seen(1, RUNNING, 100, 250)]), (9000, [])], 150),
    ("vanished", [(200, [seen(1, RUNNING, 100)]), (260, []), (9000, [])], 160),
    (
        "lost without an end",
        [(200, [seen(1, RUNNING, 100)]), (300, [seen(1, FAILED, 100)]), (900, [seen(1, FAILED, 100)])],
        200,
    ),
    ("the end moves on", [(300, [seen(1, RUNNING, 100, 250)]), (320, [seen(1, FAILED, 100, 270)])], 170),
    ("their clock is ahead", [(100, [seen(1, RUNNING, 400)])], 0),
]


@pytest.mark.parametrize(("looks", "expected"), [story[1:] for story in STORIES], ids=[story[0] for story in STORIES])
def test_running_time_leaves_out_queues_waits_and_suspension(
    looks: list[tuple[float, list[Attempt]]], expected: float
) -> None:
    status, now = RunStatus(), 0.0
    for now, attempts in looks:
        status = with_running_time(status, attempts, now)
        assert with_running_time(status, attempts, now) == status
    assert running_seconds(status, now) == expected


def test_time_in_a_queue_does_not_count_against_the_deadline() -> None:
    run = document({}, activeDeadlineSeconds=50)
    status = RunStatus(started_at=0.0, stages=(StageRecord(T, StageState.RUNNING, 1),))
    waits = plan(run, Observed((QUEUED,)), 5000.0, status=status)
    assert (waits.status.reason, waits.wake_at) == (None, None)
    admitted = Observed((seen(1, RUNNING, 5000.0),))
    runs = plan(run, admitted, 5010.0, status=waits.status)
    assert runs.wake_at == 5050.0
    assert plan(run, admitted, 5050.0, status=runs.status).status.reason is Reason.DEADLINE_EXCEEDED


def test_retry_begins_the_running_time_again() -> None:
    run = document({}, activeDeadlineSeconds=50)
    status = RunStatus(started_at=0.0, stages=(StageRecord(T, StageState.RUNNING, 1),))
    failed = plan(run, Observed((seen(1, RUNNING, 0.0),)), 60.0, status=status).status
    old = seen(1, FAILED, 0.0, 65.0)
    again = plan(run, Observed((old,), retry_requested=True), 100.0, status=failed).status
    assert (again.ran_seconds, again.reason) == (0, None)
