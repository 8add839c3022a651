"""The API server is asked before an end is written of which the pods that are seen do not tell."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reports import Cause, SavedCheckpoint
from diht_k8s.api.status import LastCheckpoint
from diht_k8s.controller.live_reads import LiveReads
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.pod_summary import pod_summary
from tests.unit.controller.documents import DISRUPTED
from tests.unit.controller.fake import FakeCluster, FakeInformer, Process
from tests.unit.controller.stories import Clock, status, training

POD = "r-train-1-0"


def late(process: Process) -> None:
    """Let the process see no change of pods any more but what it reads itself."""
    sync, seen = process.sync, process.pods

    def stalled() -> None:
        pods = dict(seen.summaries)
        sync()
        seen.summaries = pods

    process.sync = stalled  # type: ignore[method-assign]


def fail(cluster: FakeCluster, message: str = "") -> None:
    conditions = [{"type": "Failed", "status": "True", "reason": "x", "message": message}]
    cluster.jobs["r-train-1"]["status"] = {"conditions": conditions}
    cluster.version += 1
    cluster.jobs["r-train-1"]["metadata"]["resourceVersion"] = str(cluster.version)


def cause(cluster: FakeCluster) -> Any:
    return status(cluster).stages[0].cause


def play(cluster: FakeCluster, process: Process, clock: Clock) -> None:
    for _ in range(6):
        process.reconcile()
        clock.now += 1


@pytest.mark.parametrize("seen", ["pods that run", "no pods"])
def test_end_of_a_pod_that_its_watch_has_not_reported_is_read_and_blamed(seen: str) -> None:
    cluster, process, clock = training()
    if seen == "pods that run":
        process.reconcile()
    late(process)
    cluster.end("r-train-1", 75, message="the disk is full")
    fail(cluster, "Job has reached the specified backoff limit")
    play(cluster, process, clock)
    assert (cause(cluster).exit_code, cause(cluster).message) == (75, "the disk is full")


@pytest.mark.parametrize("seen", ["pods that run", "one of them", "no pods"])
def test_good_end_of_pods_that_their_watch_has_not_reported_is_read(seen: str) -> None:
    cluster, process, clock = training()
    if seen != "no pods":
        process.reconcile()
    late(process)
    saved = SavedCheckpoint(step=8, uri="s3://corpus/run/train/checkpoints/step-000000008")
    folder = "s3://corpus/run/train/0123456789abcdef"
    cause = Cause(exit_code=0, reason="Completed", message="", output=folder, checkpoint=saved)
    cluster.end("r-train-1", 0, message=cause.encoded())
    if seen == "one of them":
        process.pods.put(cluster.pods["r-train-1-1"])
    cluster.logs[POD] = "train: cached (there)"
    play(cluster, process, clock)
    [stage] = status(cluster).stages
    assert (stage.state, stage.output_uri) == ("Cached", folder)
    assert status(cluster).last_checkpoint == LastCheckpoint(step=saved.step, uri=saved.uri)


@pytest.mark.parametrize(("left", "asked"), [([0, 1], 0), ([0], 0), ([1], 1), ([], 1)])
def test_pods_of_a_complete_attempt_are_listed_once_and_only_where_the_first_ones_end_is_not_to_be_seen(
    left: list[int], asked: int
) -> None:
    cluster, process, clock = training()
    process.reconcile()
    cluster.end("r-train-1", 0)
    cluster.pods = {name: pod for name, pod in cluster.pods.items() if int(name[-1]) in left}
    cluster.asked.clear()
    play(cluster, process, clock)
    assert status(cluster).stages[0].state == "Complete"
    assert cluster.asked == asked * ["Pods of r"]


def test_pods_are_listed_once_for_each_attempt_and_only_where_the_cause_is_not_to_be_seen() -> None:
    cluster, process, clock = training()
    process.reconcile()
    cluster.asked.clear()
    cluster.end("r-train-1", 75)
    play(cluster, process, clock)
    assert [asked for asked in cluster.asked if asked.startswith("Pods")] == ["Pods of r"], "before the next attempt"
    cluster, process, clock = training()
    process.reconcile()
    cluster.asked.clear()
    fail(cluster)
    cluster.pods = {}
    play(cluster, process, clock)
    assert cause(cluster).reason == "PodRemoved"
    assert [asked for asked in cluster.asked if asked.startswith("Pods")] == 2 * ["Pods of r"]


def test_cause_waits_for_an_api_server_that_does_not_answer() -> None:
    cluster, process, _ = training()
    process.reconcile()
    late(process)
    cluster.end("r-train-1", 75, message="the disk is full")
    cluster.refuse["list Pod"] = ClusterError(500, "InternalError", "etcd is away")
    with pytest.raises(ClusterError):
        process.reconcile()
    assert cause(cluster) is None
    cluster.refuse.clear()
    play(cluster, process, Clock())
    assert cause(cluster).message == "the disk is full"


KUBELET = {"reason": "Started", "source": {"component": "kubelet", "host": "node-7"}}
SCHEDULER = {"reason": "Scheduled", "source": {"component": "scheduler", "host": "node-1"}}


@pytest.mark.parametrize(
    ("events", "reason", "message"),
    [
        ([SCHEDULER, KUBELET], "EvictionByEvictionAPI", f"node-7 was drained (pod {POD} was evicted)"),
        ([KUBELET, {"reason": "Preempted"}], "PreemptionByScheduler", f"pod {POD} on node-7 was preempted"),
        ([KUBELET, {"reason": "TaintManagerEviction"}], "DeletionByTaintManager", "evicted by a taint of node-7"),
        ([KUBELET, {"reason": "Evicted"}], "TerminationByKubelet", f"the kubelet of node-7 ended pod {POD}"),
        ([SCHEDULER], "DisruptionTarget", f"pod {POD} was drained, evicted or preempted"),
        ([], "DisruptionTarget", f"pod {POD} was drained, evicted or preempted"),
    ],
    ids=["drained", "preempted", "tainted", "short of resources", "no word of a kubelet", "no events"],
)
def test_drain_that_no_operator_has_seen_is_told_with_the_node_of_the_pods_events(
    events: list[dict[str, Any]], reason: str, message: str
) -> None:
    cluster, process, clock = training()
    process.reconcile()
    process = Process(cluster, clock)  # the operator was away meanwhile
    fail(cluster, f"Pod n/{POD} has condition DisruptionTarget matching FailJob rule at index 1")
    cluster.pods, cluster.pod_events = {}, {POD: events}
    play(cluster, process, clock)
    assert cause(cluster).reason == reason
    assert message in cause(cluster).message


def test_drained_pod_that_still_exists_is_read_itself() -> None:
    cluster, process, clock = training()
    late(process)
    cluster.pods[POD]["status"]["conditions"] += DISRUPTED
    cluster.pods[POD]["status"]["phase"] = "Failed"
    fail(cluster, f"Pod n/{POD} has condition DisruptionTarget matching FailJob rule at index 1")
    play(cluster, process, clock)
    assert cause(cluster).message == f"node-0 was drained (pod {POD} was evicted)"
    assert f"events of {POD}" not in cluster.asked, "an API server reads all events of a namespace for that"


def test_nothing_is_asked_while_no_attempt_has_ended() -> None:
    cluster, process, _ = training()
    process.reconcile()
    reads = LiveReads(cluster, FakeInformer(pod_summary))  # type: ignore[arg-type]
    cluster.asked.clear()
    known = process.reconciler._memories["n", "r"].objects
    cached = process.runs.get(("n", "r"))
    assert cached is not None
    assert not reads.read_ended_pods(cached, known, [])
    assert cluster.asked == []
