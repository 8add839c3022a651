"""Budgets and running time through a whole reconciliation: what pods and Jobs say ends up in the status."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Cause, SavedCheckpoint
from diht_k8s.api.status import Status, WorkStatus, wire
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.kube.job_summary import JobSummary, job_summary
from tests.unit.controller.documents import NOW, at, job
from tests.unit.controller.stories import gang, reason, settle, status, training

SAVED = SavedCheckpoint(step=900, uri="s3://corpus/run/train/checkpoints/step-000000900", seconds=7300)


def test_checkpoint_in_the_termination_message_heals_though_the_log_is_lost() -> None:
    cluster, process, _ = training()
    process.reconcile()
    stage = cluster.runs["r"]["status"]["stages"][0]
    stage |= {"restarts": 10, "restartsCountTowardsMax": 10}
    cluster.edit("r")
    cause = Cause(exit_code=75, reason="RetryableError", message="m", step=950, checkpoint=SAVED)
    cluster.end("r-train-1", 75, message=cause.encoded())
    settle(process)
    found = status(cluster)
    assert reason(cluster) == "Restarting"
    assert (found.stages[0].restarts, found.stages[0].restarts_count_towards_max) == (11, 9)
    assert found.stages[0].work == WorkStatus(position=900, seconds=7300, failed_position=950)
    assert found.last_checkpoint is not None
    assert found.last_checkpoint.step == 900


def test_status_of_an_older_operator_is_read_as_before() -> None:
    old = {
        "startTime": timestamp(NOW),
        "stages": [
            {
                "name": "train",
                "stage": "train",
                "state": "Running",
                "attempt": 8,
                "restarts": 7,
                "restartsCountTowardsMax": 3,
            }
        ],
    }
    run = saved_run_status(Status.model_validate(old))
    record = run.stages[0]
    assert (record.restarts, record.infrastructure_restarts, record.total_restarts) == (3, 4, 7)
    assert (run.ran_seconds, run.running_since) == (0, NOW)


def test_healed_budgets_survive_the_status() -> None:
    entry = {
        "name": "train",
        "stage": "train",
        "state": "Running",
        "attempt": 8,
        "restarts": 7,
        "restartsCountTowardsMax": 0,
        "infrastructureRestartsCountTowardsMax": 0,
        "healedUntilSeconds": 5,
    }
    record = saved_run_status(Status.model_validate({"stages": [entry]})).stages[0]
    assert (record.restarts, record.infrastructure_restarts, record.healed_until) == (0, 0, 5)
    assert wire(Status.model_validate({"stages": [entry]}))["stages"][0]["infrastructureRestartsCountTowardsMax"] == 0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, None),
        ({"conditions": {"Failed": "x"}}, NOW - 5),
        ({"conditions": {"FailureTarget": "x", "Failed": "x"}}, NOW - 5),
        ({"conditions": {"SuccessCriteriaMet": "x"}}, NOW - 5),
        ({"conditions": {"SuccessCriteriaMet": "x", "Complete": "x"}}, NOW - 5),
        ({"conditions": {"Suspended": "x"}, "suspended": True}, NOW - 5),
        ({"deleted": True}, NOW),
    ],
    ids=["runs", "failed", "failed before its pods ended", "completes", "complete", "in its queue", "deleted"],
)
def test_jobs_end_is_when_it_was_decided(document: dict[str, Any], expected: float | None) -> None:
    made = job(**document)
    for later, condition in enumerate(made["status"]["conditions"]):
        condition["lastTransitionTime"] = at(NOW - 5 + later)
    found = job_summary(made)
    assert isinstance(found, JobSummary)
    assert found.ended_at == expected


def test_deadline_waits_while_the_job_is_in_its_queue() -> None:
    cluster, process, clock = gang()
    cluster.edit("r", activeDeadlineSeconds=60)
    cluster.pods.clear()
    cluster.jobs["r-train-1"]["spec"]["suspend"] = True
    clock.now += 5000
    settle(process)
    assert reason(cluster, "Failed") == "NotFinished"
    cluster.jobs["r-train-1"]["spec"]["suspend"] = False
    cluster.run_pods("r-train-1")
    settle(process)
    clock.now += 61
    settle(process)
    assert reason(cluster, "Failed") == "DeadlineExceeded"
