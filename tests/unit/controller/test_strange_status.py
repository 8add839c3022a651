"""A status that somebody else has written, as far as the CRD lets them: the run goes on, and what is written is
valid.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from diht_k8s.api.base import EPOCH, seconds
from diht_k8s.api.reports import MOST_STEPS, PROGRESS_PREFIX
from diht_k8s.api.status import MAX_COUNT, Status, wire
from diht_k8s.controller.cache.runs import RunStore
from tests.unit.controller.cached_runs import ENDED, run
from tests.unit.controller.fake import Process
from tests.unit.controller.stories import ONE, Clock, make, settle, status, training

STRANGE_TIMES: list[Any] = [[], [[]], [None], "yesterday", "2026-02-30T00:00:00Z", {}, 5]


def condition(kind: str, time: Any) -> dict[str, Any]:
    return {"type": kind, "status": "False", "reason": "NotFinished", "lastTransitionTime": time}


@pytest.mark.parametrize("time", STRANGE_TIMES, ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        lambda time: {"conditions": [condition("Failed", time)]},
        lambda time: {"startTime": time, "completionTime": time, "runningTime": {"since": time, "until": time}},
        lambda time: {"stages": [{"name": "filter", "stage": "filter", "state": "Pending", "notBefore": time}]},
        lambda time: {"attempts": [{"stage": "filter", "number": 1, "startTime": time}]},
    ],
    ids=["condition", "run", "stage", "attempt"],
)
def test_time_of_any_type_stops_no_run_and_is_written_no_more(place: Any, time: Any) -> None:
    cluster = make(**ONE)
    cluster.runs["r"]["status"] = place(time)
    settle(Process(cluster, Clock()))
    assert list(cluster.jobs) == ["r-filter-1"]
    assert wire(status(cluster)) == cluster.runs["r"]["status"], "it is written as it is read"


def test_time_that_cannot_be_read_is_unset_or_the_epoch() -> None:
    found = Status.model_validate({"startTime": ["2026-01-01T00:00:00Z"], "conditions": [condition("Failed", [])]})
    assert (found.start_time, found.conditions[0].last_transition_time) == (None, EPOCH)
    assert seconds("1970-01-01T00:00:09Z") == 9.0


@pytest.mark.parametrize("time", STRANGE_TIMES, ids=repr)
def test_finished_run_with_a_strange_completion_time_is_known_and_never_expires(time: Any) -> None:
    runs = RunStore(ttl_s=1)
    runs.put(run(status={**ENDED, "observedGeneration": 1, "completionTime": time}))
    assert runs.finished(("n", "r")) is not None
    assert runs.due(1e12) == []


@pytest.mark.parametrize("state", ["Pending", "Running", "Restarting"])
def test_counters_at_their_maximum_stay_there(state: str) -> None:
    cluster, clock = make(**ONE, failurePolicy={"maxRestarts": 100}), Clock()
    entry = {
        "name": "filter",
        "stage": "filter",
        "state": state,
        "attempt": MAX_COUNT,
        "restarts": MAX_COUNT,
        "outOfMemory": MAX_COUNT - 1,
        "work": {"position": 2**62},
        "infrastructureRestartsCountTowardsMax": MAX_COUNT,
    }
    cluster.runs["r"]["status"] = {"stages": [entry], "restarts": MAX_COUNT, "runningTime": {"seconds": 2**62}}
    process = Process(cluster, clock)
    for _ in range(10):
        process.reconcile()
        for name in cluster.jobs:
            cluster.end(name, 70)
        clock.now += 1000.0
    [stage] = status(cluster).stages
    assert list(cluster.jobs) == [f"r-filter-{MAX_COUNT}"]
    assert (stage.attempt, stage.restarts, status(cluster).restarts) == (MAX_COUNT,) * 3
    assert stage.cause is not None, "the failure is told"


def test_run_whose_attempts_are_used_up_ends() -> None:
    cluster, clock = make(**ONE, failurePolicy={"maxRestarts": 3}), Clock()
    cluster.runs["r"]["status"] = {
        "stages": [{"name": "filter", "stage": "filter", "state": "Pending", "attempt": MAX_COUNT}]
    }
    process = Process(cluster, clock)
    for _ in range(20):
        process.reconcile()
        for name in cluster.jobs:
            cluster.end(name, 70)
        clock.now += 1000.0
    assert next(each for each in status(cluster).conditions if each.type == "Failed").reason == "RestartsExhausted"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"stages": [{"name": "mining", "stage": "filter", "state": "Pending"}]}, "stage mining"),
        ({"stages": [{"name": "train-wait", "stage": "train", "state": "Running"}]}, "stage train-wait"),
        ({"stages": [{"name": "filter", "stage": "filter", "state": "Sleeping"}]}, "stages[0].state"),
        ({"progress": "half of it"}, "progress"),
        ({"stages": "none", "pods": []}, "stages, pods"),
    ],
)
def test_status_that_the_models_do_not_know_is_repaired_with_one_line_of_log(
    given: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make(**ONE)
    cluster.runs["r"]["status"] = given
    settle(Process(cluster, Clock()))
    assert list(cluster.jobs) == ["r-filter-1"]
    assert [stage.name for stage in status(cluster).stages] == ["filter"]
    [line] = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert line.startswith(f"n/r: its status is repaired: it has unknown {says}")


@pytest.mark.parametrize("position", [2**62 - 1, 2**62, 2**63, 10**400])
def test_round_that_failed_at_the_largest_step_stops_no_run(position: int) -> None:
    cluster, process, clock = training()
    cluster.runs["r"]["spec"]["failurePolicy"] = {"restart": "InPlace"}
    rounds = {"round": 2, "exit_code": 75, "step": None}
    work = {"step": position, "uri": "s3://corpus/c", "seconds": position}
    line = {"stage": "train", "step": "epoch 1", "done": 1, "total": 2, "rounds": rounds, "checkpoint": work}
    cluster.logs["r-train-1-0"] = f"{PROGRESS_PREFIX},{json.dumps(line)[1:]}\n"
    for _ in range(3):
        process.reconcile()
        clock.now += 60
    [stage] = [stage for stage in status(cluster).stages if stage.name == "train"]
    assert stage.work is not None
    assert stage.work.failed_position == MOST_STEPS + 1
