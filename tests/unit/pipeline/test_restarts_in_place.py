"""Restarts in place on the budget of the program's faults: reported over and over, from several places, out of
order.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks._effective_time import document
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Rounds
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork, InPlaceRestarts, in_place_of, most_restarts
from diht_k8s.pipeline.plan import Observed, Stop, plan
from diht_k8s.pipeline.run_status import RunState, RunStatus, StageRecord

T, H = Stage.TRAIN, 3600


def running(
    number: int, restarts: int | None, *, failed_at: int | None = None, work: CommittedWork | None = None
) -> Attempt:
    said = None if restarts is None else InPlaceRestarts(number, restarts, failed_at, 1, f"killed {restarts}", 1)
    return Attempt(T, number, AttemptState.RUNNING, active=2, in_place=said, work=work)


def after(reports: list[Attempt], record: StageRecord | None = None, **policy: Any) -> RunStatus:
    run, status = document(policy), RunStatus(stages=(record or StageRecord(T, StageState.RUNNING, 1),), started_at=0.0)
    for report in reports:
        decided = plan(run, Observed((report,)), 100.0, status=status)
        again = plan(run, Observed((report,)), 100.0, status=decided.status)
        assert again.status == decided.status
        status = decided.status
    return status


TABLE: dict[str, tuple[list[Attempt], int, int]] = {
    "nothing reported": ([running(1, None)], 0, 0),
    "the first round": ([running(1, 0)], 0, 0),
    "one restart, twice": ([running(1, 1), running(1, 1)], 1, 1),
    "several at once": ([running(1, 3)], 3, 3),
    "an older line after a newer one": ([running(1, 3), running(1, 1)], 3, 3),
    "a report lost between": ([running(1, 2), running(1, None), running(1, 3)], 3, 3),
    "in two attempts": ([running(1, 2), running(2, 1)], 3, 3),
    "in the second attempt, then one of the first": ([running(2, 1), running(1, 4)], 1, 1),
}


@pytest.mark.parametrize(("reports", "counted", "total"), TABLE.values(), ids=TABLE)
def test_restarts_in_place_are_counted_once_each(reports: list[Attempt], counted: int, total: int) -> None:
    stage = after(reports).of(T)
    assert (stage.restarts, stage.total_in_place, stage.total_restarts) == (counted, total, 0)
    assert stage.state is StageState.RUNNING


@pytest.mark.parametrize(
    ("work", "left"),
    [(CommittedWork(40, 9 * H), 2), (CommittedWork(50, 9 * H), 0)],
    ids=["before the step that failed", "beyond it"],
)
def test_committed_work_gives_restarts_in_place_back(work: CommittedWork, left: int) -> None:
    stage = after([running(1, 2, failed_at=50), running(1, 2, failed_at=50, work=work)]).of(T)
    assert (stage.restarts, stage.total_in_place) == (left, 2)


def test_run_fails_and_stops_its_programs_when_the_budget_is_used_up() -> None:
    assert after([running(1, 3)], maxRestarts=3).of(T).state is StageState.RUNNING
    run, status = document({"maxRestarts": 3}), after([running(1, 4)], maxRestarts=3)
    assert (status.state, status.reason) == (RunState.FAILED, Reason.RESTARTS_EXHAUSTED)
    assert "killed 4" in status.message
    [action] = plan(run, Observed((running(1, 4),)), 101.0, status=status).actions
    assert isinstance(action, Stop)


def test_reports_of_several_pods_and_the_log_then_the_newest_round_counts() -> None:
    reports = [
        Rounds(round=2, message="a"),
        None,
        Rounds(round=4, message="b", exit_code=-9, node=1, step=7),
        Rounds(round=1),
    ]
    found = in_place_of(3, reports)
    assert found == InPlaceRestarts(3, 3, 7, 0, "b", 1)
    assert in_place_of(3, [None]) is None
    as_nodes_go = Rounds(round=4, uncounted=2, message="b")
    assert in_place_of(3, [as_nodes_go]) == InPlaceRestarts(3, 1, None, None, "b", None)
    assert most_restarts([None, InPlaceRestarts(3, 1), found]) == found
    assert most_restarts([None]) is None
