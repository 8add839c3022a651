"""Quota of an elastic training in two parts: its size follows what there is; growing is rare and of use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diht_k8s.api.reports import TimeSpent
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptTimes
from diht_k8s.pipeline.plan import Observed, Start, Stop, plan
from diht_k8s.pipeline.run_status import StageRecord
from tests.unit.pipeline.situations import BEFORE_T, PENDING, RUN_T, RUNNING, T, at, attempt, make_run

TRAIN = {"model": "ViT-B-16", "samples": 48, "batchSize": 48, "numNodes": 4, "minNodes": 2}
RN50 = {"model": "RN50", "batchSize": 8}
BEGAN, START_S = 1000.0, 100.0
DUE = BEGAN + 600


def gang(pods: int, quota: int | None, left_s: float | None = 9000.0, **more: Any) -> Attempt:
    """One that trains, after a start of 30 s until its program ran and 70 s in that."""
    times, spent = AttemptTimes(BEGAN - 30, BEGAN - 30, BEGAN, BEGAN), TimeSpent(starting=70.0, steps=1.0)
    found = attempt(T, 3, RUNNING, active=pods, pods=pods, quota=quota, started_at=BEGAN)
    return replace(found, times=times, spent=spent, remaining_s=left_s, **more)


@pytest.mark.parametrize(
    ("seen", "quota", "now", "train", "nodes"),
    [
        (gang(4, 4), 2, BEGAN, {}, 2),
        (gang(4, 4), 3, BEGAN, {}, 3),
        (gang(4, 4), 3, BEGAN, RN50, 2),
        (gang(4, 4, state=PENDING), 2, BEGAN, {}, 2),
        (gang(3, 4), 3, BEGAN, {}, None),
        (gang(2, 4), 2, BEGAN, {}, None),
        (gang(4, 4), None, BEGAN, {}, None),
        (gang(4, None), 2, BEGAN, {}, None),
        (gang(4, 4), 2, BEGAN, {"minNodes": 3}, 3),
        (gang(4, 4), 4, DUE, {"numNodes": 2}, None),
        (gang(4, 4), 2, BEGAN, {"minNodes": None}, None),
        (gang(2, 2), 4, DUE - 1, {}, None),
        (gang(2, 2), 4, DUE, {}, 4),
        (gang(2, 2), 3, DUE, {}, 3),
        (gang(2, 2), 3, DUE, RN50, None),
        (gang(2, 3), 4, DUE, RN50, 4),
        (gang(2, 2, state=PENDING), 4, DUE, {}, None),
        (gang(2, 4), 4, DUE, {}, None),
        (gang(2, 3), 4, DUE, {}, None),
        (gang(2, None), 4, DUE, {}, None),
        (gang(2, 2, 201), 4, DUE, {}, 4),
        (gang(2, 2, 200), 4, DUE, {}, None),
        (gang(3, 3, 400), 4, DUE, {}, None),
        (gang(2, 2, None), 4, DUE, {}, None),
        (replace(gang(2, 2), spent=None), 4, DUE, {}, None),
        (replace(gang(2, 2), times=None), 4, DUE, {}, None),
        (replace(gang(2, 2), started_at=None), 4, DUE, {}, None),
    ],
    ids=[
        "shrinks at once",
        "to what is left",
        "to a number with equal parts",
        "as it starts, too",
        "not where it used none of it",
        "not where it is small anyway",
        "an eviction is not its affair",
        "a gang that queues otherwise",
        "an edit asks for more at least",
        "an edit alone shrinks nothing",
        "rigid by now",
        "grows not soon",
        "grows",
        "by a part",
        "not by what is of no use",
        "from a number with equal parts",
        "not before it trains",
        "not where nodes are missing",
        "not where a node is missing",
        "not if it queues otherwise",
        "saves a second",
        "saves nothing",
        "a node more saves less",
        "nobody knows how much is left",
        "nor what a start takes",
        "nor when it began",
        "nor since when it has nodes",
    ],
)
def test_gang_has_as_many_nodes_as_its_quota_allows(
    seen: Attempt, quota: int | None, now: float, train: dict[str, Any], nodes: int | None
) -> None:
    chosen = {name: value for name, value in {**TRAIN, **train}.items() if value is not None}
    made = plan(make_run(train=chosen), Observed((seen,), quota=quota), now, status=at(*BEFORE_T, RUN_T))
    record = made.status.of(T)
    assert (record.nodes, record.resized_by_quota) == (nodes, nodes is not None)
    assert made.actions == (() if nodes is None else (Stop(T, 3, "r-train-3"),))
    assert record.total_restarts == RUN_T.total_restarts


@pytest.mark.parametrize(
    ("decided", "quota", "start"),
    [
        (None, None, Start(T, 4, "r-train-4")),
        (None, 4, Start(T, 4, "r-train-4", quota=4)),
        (None, 9, Start(T, 4, "r-train-4", quota=9)),
        (None, 2, Start(T, 4, "r-train-4", nodes=2, quota=2, lacks_quota=True)),
        (3, 4, Start(T, 4, "r-train-4", nodes=3, quota=4)),
        (3, 2, Start(T, 4, "r-train-4", nodes=2, quota=2, lacks_quota=True)),
        (2, 2, Start(T, 4, "r-train-4", nodes=2, quota=2)),
        (2, 3, Start(T, 4, "r-train-4", nodes=2, quota=3)),
    ],
    ids=[
        "unlimited",
        "all",
        "more than all",
        "some",
        "nodes are missing",
        "and quota",
        "it gave way to that",
        "or to less",
    ],
)
def test_attempt_starts_with_the_nodes_that_it_has_quota_for(
    decided: int | None, quota: int | None, start: Start
) -> None:
    given = at(*BEFORE_T, StageRecord(T, StageState.RESTARTING, 3, nodes=decided))
    made = plan(make_run(train=TRAIN), Observed(quota=quota), 9.0, status=given)
    assert (made.actions, made.status.of(T).nodes) == ((start,), decided)
    again = plan(make_run(train=TRAIN), Observed(quota=quota), 10.0, status=made.status)
    assert again.actions == made.actions, "a start that was lost is made again"


@pytest.mark.parametrize("quota", [2, 4])
def test_suspended_run_is_stopped_and_not_resized(quota: int) -> None:
    run = make_run(train=TRAIN, suspend=True)
    made = plan(run, Observed((gang(4, 4),), quota=quota), DUE, status=at(*BEFORE_T, RUN_T))
    assert (made.actions, made.status.of(T).nodes) == ((Stop(T, 3, "r-train-3"),), None)


@pytest.mark.parametrize(("quota", "nodes"), [(2, None), (3, 3), (4, 4), (9, 4), (None, 4)])
def test_gang_of_which_no_pod_finds_a_node_asks_for_what_it_has_quota_for(quota: int | None, nodes: int | None) -> None:
    waits = attempt(T, 3, PENDING, active=2, pods=2, quota=quota, unplaced_since=BEGAN)
    made = plan(make_run(train=TRAIN), Observed((waits,), quota=quota), BEGAN + 60, status=at(*BEFORE_T, RUN_T))
    assert (made.status.of(T).nodes, made.status.of(T).resized_by_quota) == (nodes, False)
