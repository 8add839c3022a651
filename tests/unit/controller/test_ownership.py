"""What a run counts and deletes: its own Jobs and pods by UID; and pod counts that are written later."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.status import StageState
from diht_k8s.controller.cache.runs import RunStore, RunWatch, cached_run
from diht_k8s.kube.errors import ClusterError
from tests.unit.controller.cached_runs import ENDED, ended_run, run
from tests.unit.controller.documents import DISRUPTED, NOW, at, job, pod
from tests.unit.controller.fake import Dead, FakeCluster, Process
from tests.unit.controller.script import Script, page
from tests.unit.controller.stories import ONE, Clock, make, reason, settle, status, training


def test_job_that_was_replaced_since_it_was_observed_is_not_deleted() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    settle(process)
    process.sync()
    cluster.jobs["r-filter-1"]["metadata"]["uid"] = "another"
    cluster.edit("r", suspend=True)
    process.runs.put(cached_run(cluster.runs["r"]))
    process.reconciler.reconcile(("n", "r"))
    assert list(cluster.jobs) == ["r-filter-1"]


def test_job_of_another_owner_with_our_labels_is_no_attempt_nor_are_its_pods() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    foreign = job("filter", name="theirs", owner="somebody", conditions={"Complete": "x"})
    cluster.jobs["theirs"] = foreign
    theirs = pod(0, "filter", job_uid="uid-theirs")
    theirs["metadata"] |= {"name": "theirs-0", "uid": "uid-theirs-0"}
    cluster.pods["theirs-0"] = theirs
    settle(process)
    found = status(cluster)
    assert (found.stages[0].state, found.pods.active) == (StageState.RUNNING, 2)  # type: ignore[union-attr]
    assert "theirs" in cluster.jobs


def test_no_attempt_starts_beside_pods_that_the_watch_has_not_reported_and_those_are_deleted() -> None:
    cluster, process, _ = training()
    [created] = [each.uid for each in process.jobs.summaries.values()]
    del cluster.jobs["r-train-1"]  # deleted with --cascade=orphan
    for each in cluster.pods.values():
        each["metadata"]["ownerReferences"] = []
        each["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = created
    pods, cluster.pods = cluster.pods, {}
    process.sync()  # the watch of pods lags
    cluster.pods = pods
    for _ in range(2):
        process.reconciler.reconcile(("n", "r"))
    assert list(cluster.jobs) == []
    assert "waits until pod r-train-1-0 of an earlier attempt is gone" in status(cluster).conditions[1].message
    settle(process)
    assert cluster.pods == {}
    assert list(cluster.jobs) == ["r-train-1"]


def test_own_job_that_is_being_deleted_is_waited_for_and_not_taken_for_the_attempt() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.jobs["r-filter-1"]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    process = Process(cluster, Clock())
    jobs, cluster.jobs = cluster.jobs, {}
    process.sync()
    cluster.jobs = jobs
    for _ in range(2):
        process.reconciler.reconcile(("n", "r"))
    progressing = status(cluster).conditions[1]
    assert (progressing.reason.value, progressing.message) == (
        "Pending",
        "filter: waits until the old Job r-filter-1 is gone",
    )
    assert process.jobs.summaries == {}


def test_pods_of_a_foreign_job_of_the_same_name_hold_no_run_up() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.jobs["r-filter-1"] = job("filter", uid="theirs", owner="somebody")
    cluster.jobs["r-filter-1"]["metadata"]["ownerReferences"][0] |= {"kind": "Deployment"}
    cluster.pods["p"] = pod(0, "filter", job_uid="theirs")
    settle(process)
    assert reason(cluster, "Accepted") == "NameConflict"


def orphaned(cluster: FakeCluster, name: str) -> str:
    """`kubectl delete job --cascade=orphan`: the pods stay, without an owner."""
    uid = cluster.jobs.pop(name)["metadata"]["uid"]
    for orphan in cluster.pods.values():
        del orphan["metadata"]["ownerReferences"]
        orphan["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = uid
    return uid


@pytest.mark.parametrize("restarts", [False, True], ids=["same operator", "operator restarted"])
def test_orphans_of_our_job_are_deleted_with_an_event_and_gone_before_the_attempt_starts_again(restarts: bool) -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    orphaned(cluster, "r-filter-1")
    cluster.writes.clear()
    process = Process(cluster, Clock()) if restarts else process
    process.reconcile()
    assert cluster.jobs == {}
    assert [write for write in cluster.writes if "Pod " in write] == [
        "delete Pod r-filter-1-0",
        "delete Pod r-filter-1-1",
    ]
    assert (reason(cluster), status(cluster).conditions[1].message) == (
        "Pending",
        "filter: the Job of attempt 1 was deleted without its pods: waits until 2 are gone",
    )
    assert [event["message"] for event in cluster.recorded if event["reason"] == "OrphanDeleted"] == [
        f"filter: pod r-filter-1-{index} has lost its Job and is deleted" for index in (0, 1)
    ]
    settle(process)
    assert list(cluster.jobs) == ["r-filter-1"]


def gone_with_orphans() -> tuple[FakeCluster, Process]:
    """A run is gone, and its pods have lost their Job."""
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    orphaned(cluster, "r-filter-1")
    cluster.runs.clear()
    return cluster, process


def test_orphans_of_a_run_that_is_gone_are_deleted_though_the_first_try_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, process = gone_with_orphans()

    def fail(*_: Any) -> None:
        raise ClusterError(0, "Unreachable", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "delete", fail)
        with pytest.raises(ClusterError):
            process.reconcile()
    process.reconcile()
    assert (cluster.pods, process.reconciler._memories) == ({}, {})


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen yet"])
def test_orphans_of_a_job_that_no_living_operator_has_seen_are_gone_before_the_attempt_starts_again(
    monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    cluster = make()
    process = Process(cluster, Clock())
    create = cluster.create

    def die_after_job(document: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        made = create(document, dry_run=dry_run)
        if made["kind"] == "Job" and not dry_run:
            raise Dead
        return made

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "create", die_after_job)
        with pytest.raises(Dead):
            process.reconcile()
    cluster.run_pods("r-filter-1")
    orphaned(cluster, "r-filter-1")
    process, pods = Process(cluster, Clock()), cluster.pods
    if not seen:
        cluster.pods = {}
    process.sync()
    cluster.pods = pods
    process.reconciler.reconcile(("n", "r"))
    assert "r-filter-1" not in cluster.jobs
    cluster.writes.clear()
    settle(process)
    assert [write for write in cluster.writes if "r-filter" in write][-1] == "create Job r-filter-1"
    assert "r-filter-1-0" not in cluster.pods


def test_job_whose_workers_are_all_lost_is_deleted_before_the_next_attempt_starts() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    for lost in cluster.pods.values():
        lost["status"]["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": at(NOW)}, *DISRUPTED]
    cluster.writes.clear()
    settle(process)
    assert [write for write in cluster.writes if "Job" in write] == ["delete Job r-filter-1", "create Job r-filter-2"]
    assert status(cluster).attempts[0].reason == "NodeLost"


def test_orphans_are_deleted_when_their_run_is_suspended_or_deleted() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    cluster.edit("r", suspend=True)
    orphaned(cluster, "r-filter-1")
    settle(process)
    assert (cluster.pods, reason(cluster)) == ({}, "Suspended")


def test_orphans_of_a_run_that_is_deleted_before_they_are_seen_are_deleted() -> None:
    cluster, process = gone_with_orphans()
    settle(process)
    assert cluster.pods == {}


def test_pod_that_claims_to_be_of_a_job_that_never_was_ours_is_neither_counted_nor_deleted() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    orphaned(cluster, "r-filter-1")
    for orphan in cluster.pods.values():
        orphan["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = "never-ours"
        orphan["metadata"]["labels"]["diht.dev/run-uid"] = "another run's"
    settle(process)
    assert (list(cluster.jobs), len(cluster.pods)) == (["r-filter-1"], 2)


def test_drained_pod_that_is_gone_is_named_with_its_node() -> None:
    cluster, process, _ = training()
    process.reconcile()
    drained = cluster.pods["r-train-1-1"]
    drained["spec"]["nodeName"] = "node-1"
    drained["status"]["conditions"] = [*drained["status"]["conditions"], *DISRUPTED]
    process.reconcile()
    cluster.end("r-train-1", 1)
    cluster.pods.clear()
    message = "Pod n/r-train-1-1 has condition DisruptionTarget matching FailJob rule at index 1"
    cluster.jobs["r-train-1"]["status"]["conditions"][0]["message"] = message
    settle(process)
    [stage] = status(cluster).stages
    assert stage.cause is not None
    assert (stage.cause.message, stage.cause.node, stage.cause.exit_code) == (
        "node-1 was drained (pod r-train-1-1 was evicted)",
        "node-1",
        None,
    )


def test_owed_pod_counts_are_written_when_due_though_no_log_is_read_then() -> None:
    cluster, clock = make(filter={"workers": 4}), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    pods, cluster.pods = cluster.pods, {}
    first, second, *_ = pods

    def after(seconds: float) -> float | None:
        clock.now = NOW + seconds
        return process.reconcile()

    cluster.pods[first] = pods[first]
    after(3)  # the first pod runs: a status, and the log is read
    cluster.edit("r", activeDeadlineSeconds=5000)
    after(8)  # another status
    after(13.5)  # the log is read again
    cluster.writes.clear()
    cluster.pods[second] = pods[second]
    assert after(17) == pytest.approx(1.0), "ten seconds after the last status"
    assert cluster.writes == []
    after(18)
    assert cluster.writes == ["status r"]
    assert status(cluster).pods.ready == 2  # type: ignore[union-attr]


MULTIKUEUE = "kueue.x-k8s.io/multikueue"
MIRRORED: dict[str, dict[str, Any]] = {
    "new": {},
    "running": {"stages": [{"stage": "filter", "state": "Running", "attempt": 1}], "observedGeneration": 1},
    "ended": {**ENDED, "completionTime": at(NOW - 10**6), "observedGeneration": 1},
    "unknown": {"strange": 1},
}


@pytest.mark.parametrize("state", MIRRORED)
@pytest.mark.parametrize("spec", [{}, {"suspend": True}, {"ttlSecondsAfterFinished": 0}], ids=str)
def test_run_of_another_controller_is_never_written(state: str, spec: dict[str, Any]) -> None:
    cluster = make(managedBy=MULTIKUEUE, **spec)
    cluster.runs["r"]["status"] = MIRRORED[state]
    before = copy.deepcopy(cluster.runs)
    process = Process(cluster, Clock())
    settle(process)
    assert process.runs.due(NOW) == []
    assert (cluster.writes, cluster.runs, cluster.jobs, cluster.recorded) == ([], before, {}, [])
    assert process.reconcile() is None
    cluster.runs["r"]["metadata"]["deletionTimestamp"] = at(NOW)
    settle(process)
    assert cluster.writes == []


@pytest.mark.parametrize("managed_by", [None, "diht.dev/operator"])
def test_run_of_our_operator_is_reconciled(managed_by: str | None) -> None:
    cluster = make(managedBy=managed_by)
    settle(Process(cluster, Clock()))
    assert "create Job r-filter-1" in cluster.writes


def test_watch_passes_over_runs_of_another_controller_and_sees_the_others() -> None:
    documents = [
        {**found.document, "metadata": dict(found.document["metadata"])}
        for found in (run("theirs", managedBy=MULTIKUEUE), ended_run("old", managedBy=MULTIKUEUE), run("ours"))
    ]
    runs, changed = RunStore(), list[str]()
    watch = RunWatch(Script(page(*documents)), runs, lambda key: changed.append(key[1]), clock=lambda: 0.0)
    watch._list()
    assert (changed, runs.keys(), len(runs)) == (["ours"], [("n", "ours")], 1)
