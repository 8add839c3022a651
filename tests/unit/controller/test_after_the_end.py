"""What is deleted once a run or a stage has ended, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reasons import ConditionType
from diht_k8s.api.reports import Cause, NodeResult, SavedCheckpoint
from diht_k8s.api.status import LastCheckpoint
from diht_k8s.controller.saved_status import is_true, saved_run_status
from diht_k8s.pipeline.run_status import FINAL, RunState
from tests.unit.controller.documents import NOW, at, ended
from tests.unit.controller.fake import Dead, FakeCluster, Process
from tests.unit.controller.stories import ONE, Clock, make, play, settle, status, training


def test_run_whose_deletion_was_missed_is_removed() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    process.sync()
    cluster.runs.clear()
    assert process.reconciler.reconcile(("n", "r")) is None
    assert process.runs.keys() == []


def test_run_whose_time_to_live_is_over_is_deleted() -> None:
    cluster, clock = make(ttlSecondsAfterFinished=60), Clock()
    play(cluster)
    process = Process(cluster, clock)
    process.reconcile()
    assert (list(cluster.runs), process.runs.due(clock.now)) == (["r"], [])
    clock.now += 200
    assert process.runs.due(clock.now) == [("n", "r")]
    process.reconcile()
    assert cluster.runs == {}


def test_run_that_changed_since_its_time_was_over_is_not_deleted() -> None:
    cluster, clock = make(ttlSecondsAfterFinished=60), Clock()
    play(cluster)
    process = Process(cluster, clock)
    process.sync()
    clock.now += 200
    cluster.edit("r", ttlSecondsAfterFinished=6000)
    process.reconciler.reconcile(("n", "r"))
    assert list(cluster.runs) == ["r"]


def test_job_that_still_runs_after_its_run_has_ended_is_deleted_by_the_next_operator() -> None:
    cluster, clock = make(**ONE, activeDeadlineSeconds=60), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    clock.now += 100
    cluster.die_after = len(cluster.writes) + 1
    with pytest.raises(Dead):
        process.reconcile()
    cluster.die_after = None
    assert (saved_run_status(status(cluster)).state, list(cluster.jobs)) == (RunState.FAILED, ["r-filter-1"])
    process = Process(cluster, clock)
    settle(process)
    assert cluster.jobs == {}
    assert process.reconciler._memories == {}


def test_finished_stage_whose_job_was_removed_after_its_time_does_not_start_again() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    process.reconciler._executor._job_ttl_s = 86_400
    settle(process)
    assert cluster.jobs["r-filter-1"]["spec"]["ttlSecondsAfterFinished"] == 86_400
    cluster.end("r-filter-1", 0)
    settle(process)
    del cluster.jobs["r-filter-1"]
    cluster.pods = {}
    settle(process)
    settle(Process(cluster, Clock()))
    assert list(cluster.jobs) == ["r-vocabulary-1"]


SAVED = SavedCheckpoint(step=57, uri="s3://corpus/run/train/checkpoints/step-000000057")


def end_pod(cluster: FakeCluster, index: int, code: int, **told: Any) -> None:
    """A pod of the gang ends and leaves its message."""
    message = Cause.model_validate({"exit_code": code, "reason": "R", "message": "m", **told}).encoded()
    cluster._pod("r-train-1", index, ended(code, message=message, finished=NOW + 30 + 5 * (index == 0)), "Failed")


def end_job(cluster: FakeCluster, *kinds: str) -> None:
    """The gang's Job has got these conditions one after the other."""
    found = [
        {"type": kind, "status": "True", "reason": "x", "lastTransitionTime": at(NOW + 30 + 5 * later)}
        for later, kind in enumerate(kinds)
    ]
    cluster.jobs["r-train-1"]["status"] = {"startTime": at(NOW), "conditions": found}
    cluster.version += 1
    cluster.jobs["r-train-1"]["metadata"]["resourceVersion"] = str(cluster.version)


@pytest.mark.parametrize("seen", ["first its last pod", "both at once"])
def test_what_the_last_pod_of_a_failed_run_told_is_in_its_status_whenever_its_jobs_end_was_seen(seen: str) -> None:
    cluster, process, clock = training()
    process.reconcile()
    clock.now += 30
    end_pod(cluster, 1, 65)
    end_job(cluster, "FailureTarget")
    settle(process)
    assert saved_run_status(status(cluster)).state in FINAL
    slow = NodeResult(pod="r-train-1-0", node="node-0", problem="slow")
    end_pod(cluster, 0, 143, checkpoint=SAVED, preflight=[slow])
    if seen == "first its last pod":
        settle(process)
    end_job(cluster, "FailureTarget", "Failed")
    settle(process)
    found = status(cluster)
    assert found.last_checkpoint == LastCheckpoint(step=SAVED.step, uri=SAVED.uri)
    [stage] = found.stages
    assert stage.preflight is not None
    assert [node.problem for node in stage.preflight.nodes] == ["slow"]
    assert process.reconciler._memories == {}
    cluster.writes.clear()
    settle(process)
    assert cluster.writes == []


def lose_jobs(cluster: FakeCluster) -> None:
    cluster.jobs, cluster.pods = {}, {}


def fail_job(cluster: FakeCluster) -> None:
    cluster.end("r-filter-1", 1)


def complete_job(cluster: FakeCluster) -> None:
    cluster.end("r-filter-1", 0)


@pytest.mark.parametrize("later", [lose_jobs, fail_job, complete_job])
@pytest.mark.parametrize(("code", "kind"), [(0, ConditionType.COMPLETE), (64, ConditionType.FAILED)])
def test_end_of_a_run_is_final(code: int, kind: ConditionType, later: Any) -> None:
    cluster = make(**ONE)
    play(cluster, {"r-filter-1": code})
    before = status(cluster)
    assert is_true(before, kind)
    later(cluster)
    cluster.edit("r", failurePolicy={"maxRestarts": 7})
    process = Process(cluster, Clock())
    settle(process)
    after = status(cluster)
    assert [(each.type, each.status, each.reason) for each in after.conditions] == [
        (each.type, each.status, each.reason) for each in before.conditions
    ]
    assert (after.completion_time, after.attempts) == (before.completion_time, before.attempts)
    assert after.observed_generation == 2
