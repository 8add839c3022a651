"""A gang that finds its training computed by another run: what the operator creates, says and counts until that has
ended.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from diht_k8s.api.reports import COMMITTED, Cause
from diht_k8s.api.status import StageState
from diht_k8s.cli.status_sentences import details, sentence
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.pipeline.run_status import RunState
from tests.unit.controller.documents import failed_pod, job, pod
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.kueue import admitted
from tests.unit.controller.observed import observe
from tests.unit.controller.stories import Clock, reason, settle, status, training

LEFT = Cause(
    exit_code=75, reason="ComputedElsewhere", message="this training is computed by run b: start again"
).encoded()
FOLDER = "s3://corpus/run/train/0123456789abcdef"
DONE = Cause(exit_code=0, reason=COMMITTED, message="", output=FOLDER).encoded()
FREE = Cause(exit_code=0, reason="Completed", message="", output=FOLDER).encoded()


def left() -> tuple[FakeCluster, Process, Clock]:
    """A gang that has left, and what waits in its place."""
    cluster, process, clock = training()
    cluster.end("r-train-1", 75, message=LEFT)
    settle(process)
    cluster.run_pods("r-wait-2")
    settle(process)
    return cluster, process, clock


def train(cluster: FakeCluster) -> Any:
    return next(stage for stage in status(cluster).stages if stage.name == "train")


def test_gang_that_leaves_gives_way_to_one_small_pod() -> None:
    cluster, _, _ = left()
    waits = cluster.jobs["r-wait-2"]
    assert sorted(cluster.services) == ["r-train-1"]
    assert waits["metadata"]["labels"]["diht.dev/stage"] == "train-wait"
    assert (waits["spec"]["parallelism"], waits["spec"]["podFailurePolicy"]["rules"][1]["action"]) == (1, "Ignore")
    (container,) = waits["spec"]["template"]["spec"]["containers"]
    assert container["args"][-4:] == ["stage", "train", "--step", "wait"]


def test_every_pod_knows_whose_it_is() -> None:
    cluster, _, _ = left()
    for each in cluster.jobs.values():
        env = {item["name"]: item.get("value") for item in each["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["DIHT_OWNER"] == cluster.runs["r"]["metadata"]["uid"]
        assert "n/r" not in env.values(), "what a program writes into a bucket names no run"


def test_status_says_in_words_who_computes_it_and_counts_nothing() -> None:
    cluster, _, _ = left()
    found, stage = status(cluster), train(cluster)
    assert reason(cluster) == "ComputedElsewhere"
    assert sentence("r", found) == (
        "r does not run (ComputedElsewhere): train: this training is computed by run b, and this run waits for its end"
    )
    assert details(found) == []
    assert (stage.state, stage.attempt, stage.workload.name) == (StageState.RUNNING, 2, "r-wait-2")
    assert (found.restarts, stage.restarts_count_towards_max, stage.avoid_nodes) == (0, 0, [])
    first = found.attempts[0]
    assert (first.reason, first.exit_code, first.counted, first.node) == ("ComputedElsewhere", 75, False, "")
    reported = [event["reason"] for event in cluster.recorded]
    assert reported == ["Started", "ComputedElsewhere", "Started"]
    assert {event["type"] for event in cluster.recorded} == {"Normal"}


def test_nothing_is_written_while_it_waits() -> None:
    cluster, process, clock = left()
    cluster.writes.clear()
    for each in (process, Process(cluster, clock)):
        clock.now += 600
        settle(each)
    assert cluster.writes == []


def test_gang_starts_again_once_the_training_is_free() -> None:
    cluster, process, _ = left()
    cluster.end("r-wait-2", 0, message=FREE)
    settle(process)
    assert sorted(cluster.jobs) == ["r-train-3", "r-wait-2"]
    cluster.run_pods("r-train-3")
    settle(process)
    assert (reason(cluster), train(cluster).cause, status(cluster).restarts) == ("Running", None, 0)


def test_training_that_the_other_run_has_committed_needs_no_gang() -> None:
    cluster, process, _ = left()
    cluster.end("r-wait-2", 0, message=DONE)
    settle(process)
    assert sorted(cluster.jobs) == ["r-train-1", "r-wait-2"]
    assert saved_run_status(status(cluster)).state is RunState.COMPLETE
    assert (train(cluster).state, train(cluster).output_uri) == (StageState.CACHED, FOLDER)


def test_suspended_run_stops_what_waits_and_waits_again_when_resumed() -> None:
    cluster, process, _ = left()
    cluster.edit("r", suspend=True)
    settle(process)
    assert (reason(cluster), sorted(cluster.jobs)) == ("Suspended", ["r-train-1"])
    cluster.edit("r", suspend=False)
    settle(process)
    assert sorted(cluster.jobs) == ["r-wait-3"]
    assert (reason(cluster), status(cluster).restarts) == ("ComputedElsewhere", 0)


def test_waiting_holds_no_quota_and_the_next_gang_queues_again() -> None:
    cluster, kueue, process, _ = admitted()
    held = copy.deepcopy(kueue.workloads["r-train"])
    cluster.end("r-train-1", 75, message=LEFT)
    settle(process, 6)
    assert kueue.workloads == {}
    cluster.run_pods("r-wait-2")
    kueue.workloads["r-train"] = held  # as if the operator had died before it was deleted
    settle(process)
    assert kueue.workloads == {}
    waits = cluster.jobs["r-wait-2"]
    assert waits["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    cluster.end("r-wait-2", 0, message=FREE)
    settle(process, 6)
    assert ([*kueue.workloads], "r-train-3" in cluster.jobs) == (["r-train"], False)
    kueue.admit()
    settle(process)
    assert "r-train-3" in cluster.jobs


def test_pod_that_waits_is_no_gang_and_belongs_to_the_training() -> None:
    documents = [job("train-wait", 2, name="r-wait-2", size=1)]
    own = {"stage": "train-wait", "attempt": 2, "job_uid": "uid-r-wait-2"}
    (seen,) = observe(documents, [pod(**own)])
    assert (seen.entry, seen.attempt.step, seen.attempt.is_gang, seen.attempt.active) == ("train", "wait", False, 1)
    orphan = pod(stage="train-wait", attempt=2)
    orphan["metadata"]["ownerReferences"][0]["name"] = "r-wait-2"
    (alone,) = observe([], [orphan], newest={"train": 2})
    assert (alone.entry, alone.attempt.ending) == ("train", True)
    assert observe([], [orphan], newest={"train": 1}) == []


def test_pod_of_a_peer_that_lost_node_0_does_not_hide_why_the_gang_left() -> None:
    pods = [failed_pod(0, 75, message=LEFT, finished=1_800_000_000.0 - 20), failed_pod(1, 143)]
    (seen,) = observe([job(conditions={"Failed": "x"})], pods)
    assert (seen.attempt.reason, seen.attempt.infrastructure) == ("ComputedElsewhere", False)


@pytest.mark.parametrize(("namespace", "says"), [("n", "run b"), ("others", "another run"), ("", "another run")])
def test_holder_is_named_by_the_operator_if_it_is_of_the_same_namespace(namespace: str, says: str) -> None:
    cluster, process, _ = training()
    holder = "a0b1c2d3-0000-4000-8000-0123456789ab"
    words = f"this training is computed by run {holder}: start again to take its result"
    cluster.end("r-train-1", 75, message=Cause(exit_code=75, reason="ComputedElsewhere", message=words).encoded())
    if namespace:
        document = copy.deepcopy(cluster.runs["r"])
        document["metadata"] |= {"name": "b", "namespace": namespace, "uid": holder}
        process.runs.put(cached_run(document))
        cluster.runs["b"] = document  # not taken for deleted
    settle(process)
    told = f"{cluster.runs['r']['status']}{cluster.recorded}"
    assert f"computed by {says}, and this run waits" in told
    assert holder not in told
    assert says == "run b" or "run b" not in told
