"""An elastic training in a queue: quota for its fewest nodes and for the rest in two Workloads, and its size by what it
has.
"""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reports import Cause
from diht_k8s.cli.status_sentences import details, sentence
from tests.unit.controller.documents import at
from tests.unit.controller.elastic_queue import EVERY_S, EXTRA, TRAIN, Queued, said, whole
from tests.unit.controller.fake import Process
from tests.unit.controller.kueue import PODS
from tests.unit.controller.stories import reason, settle, status


def shrunk(**spec: Any) -> Queued:
    """One that trains on the fewest nodes, since the quota of the others was taken back."""
    queued = whole(**spec)
    queued.kueue.take_back(2)
    queued.settle()
    queued.start("r-train-2")
    return queued


def asks(queued: Queued, name: str) -> tuple[int, int | None, int]:
    """Count, minCount and priority of a Workload."""
    spec = queued.kueue.workloads[name]["spec"]
    return spec["podSets"][0]["count"], spec["podSets"][0].get("minCount"), spec["priority"]


def test_training_asks_for_its_fewest_nodes_and_then_with_less_priority_for_the_rest() -> None:
    queued = Queued(0)
    queued.settle()
    assert (asks(queued, "r-train"), list(queued.kueue.workloads)) == ((2, None, 0), ["r-train"])
    queued.kueue.nodes = 4
    queued.settle()
    assert asks(queued, EXTRA) == (2, 1, -1)
    extra = queued.kueue.workloads[EXTRA]
    assert extra["spec"]["podSets"][0]["template"]["spec"]["nodeSelector"] == {"pool": "a100"}, "nodes of the same kind"
    assert extra["metadata"]["ownerReferences"][0]["kind"] == "DihtRun"
    assert queued.jobs == {"r-train-1": 4}
    queued.start("r-train-1")
    assert {queued.kueue.conditions(name)["PodsReady"] for name in queued.kueue.workloads} == {"True"}
    (stage,) = status(queued.cluster).stages
    assert (stage.nodes, stage.wished_nodes, stage.quota_nodes) == (4, 4, 4)


@pytest.mark.parametrize(("nodes", "size"), [(2, 2), (3, 3), (5, 4)], ids=["the fewest", "one more", "more than all"])
def test_training_has_as_many_nodes_as_the_queue_has_room_for_once_it_has_waited_a_while(nodes: int, size: int) -> None:
    queued = Queued(nodes)
    queued.settle()
    if size == 2:
        assert (queued.jobs, reason(queued.cluster)) == ({}, "Queued")
        assert "has quota for 2 nodes, and waits a while for all: no quota" in sentence("r", status(queued.cluster))
        queued.wait(59)
        assert queued.jobs == {}
        queued.wait(1)
    assert queued.jobs == {"r-train-1": size}
    queued.start("r-train-1")
    found = [line for line in details(status(queued.cluster)) if "no more (one on train.minNodes nodes grows" in line]
    assert len(found) == (size < 4)


def test_rest_of_the_quota_that_comes_in_time_is_waited_for() -> None:
    queued = Queued(2)
    queued.settle()
    queued.wait(30)
    queued.kueue.nodes = 4
    queued.settle()
    assert queued.jobs == {"r-train-1": 4}


def test_waiting_for_the_rest_wakes_the_operator_at_its_end() -> None:
    queued = Queued(2)
    queued.settle()
    queued.process.sync()
    assert queued.process.reconciler.reconcile(("n", "r")) == pytest.approx(60)


def test_quota_that_the_queue_takes_back_shrinks_the_training_and_is_given_back_once_its_pods_are_gone() -> None:
    queued = whole()
    job, pods = queued.cluster.jobs["r-train-1"], dict(queued.cluster.pods)
    queued.kueue.take_back(2)
    queued.process.reconcile()
    assert "gives way to one on 2 nodes: its queue took the quota of the others" in sentence(
        "r", status(queued.cluster)
    )
    ending = {**job, "metadata": {**job["metadata"], "deletionTimestamp": at(1_800_000_000)}}
    queued.cluster.jobs["r-train-1"], queued.cluster.pods = ending, pods  # their programs save what they can
    queued.settle()
    assert (list(queued.cluster.jobs), queued.kueue.held_nodes) == (["r-train-1"], 4), "the pods still use it"
    assert "its queue took the quota of the others" in sentence("r", status(queued.cluster)), "as long as they end"
    queued.cluster.jobs, queued.cluster.pods = {}, {}
    queued.settle()
    assert (queued.jobs, list(queued.kueue.workloads)) == ({"r-train-2": 2}, ["r-train"])
    queued.start("r-train-2")
    found = status(queued.cluster)
    (stage,) = found.stages
    assert (stage.nodes, stage.wished_nodes, stage.quota_nodes, stage.restarts) == (2, 4, 2, 0)
    assert [(each.number, each.reason, each.counted) for each in found.attempts] == [
        (1, "QuotaChanged", False),
        (2, "", False),
    ]
    assert queued.told("Resized") == ["train: its queue takes quota back, and it goes on with 2 of 4 nodes"]


def test_training_grows_when_the_queue_has_room_again_but_not_soon() -> None:
    queued = shrunk()
    queued.kueue.nodes = 4
    queued.wait(EVERY_S - 1)
    assert (queued.jobs, list(queued.kueue.workloads)) == ({"r-train-2": 2}, ["r-train"]), "no quota lies idle"
    queued.wait(1)
    assert queued.jobs == {"r-train-3": 4}
    queued.start("r-train-3")
    assert status(queued.cluster).stages[0].restarts == 0
    assert queued.told("Resized")[1:] == ["train: its queue has quota for more, and it grows to 4 of 4 nodes"]


def test_training_asks_for_the_rest_again_and_waits_for_it_as_it_trains() -> None:
    queued = shrunk()
    queued.wait(EVERY_S)
    assert (queued.jobs, asks(queued, EXTRA)) == ({"r-train-2": 2}, (2, 1, -1))
    queued.wait(9000)
    queued.kueue.nodes = 3
    queued.settle()
    assert queued.jobs == {"r-train-3": 3}


def test_rest_is_given_back_where_growing_is_no_longer_of_use() -> None:
    queued = shrunk()
    queued.wait(EVERY_S)
    assert EXTRA in queued.kueue.workloads
    queued.cluster.logs.update({name: said(15) for name in queued.cluster.pods})
    queued.clock.now += 60
    queued.settle()
    assert (list(queued.kueue.workloads), queued.jobs) == (["r-train"], {"r-train-2": 2})


def test_new_operator_keeps_the_place_of_the_rest_until_it_has_read_how_long_the_training_takes() -> None:
    queued = shrunk()
    queued.wait(EVERY_S)
    uid = queued.kueue.workloads[EXTRA]["metadata"]["uid"]
    queued.process = Process(queued.cluster, queued.clock)
    queued.process.reconcile()
    assert queued.kueue.workloads[EXTRA]["metadata"]["uid"] == uid
    queued.kueue.nodes = 4
    queued.wait(60)
    assert queued.jobs == {"r-train-3": 4}


def test_eviction_of_the_fewest_nodes_stops_the_training_and_gives_the_rest_back() -> None:
    queued = whole()
    queued.kueue.take_back(0)
    queued.settle()
    assert (queued.jobs, list(queued.kueue.workloads), queued.kueue.held_nodes) == ({}, ["r-train"], 0)
    assert reason(queued.cluster) == "Queued"
    queued.kueue.nodes = 4
    queued.settle()
    assert queued.jobs == {"r-train-1": 4}, "an eviction is no failure: the same attempt comes back"


def test_restart_keeps_all_of_the_quota() -> None:
    queued = whole()
    uids = {name: each["metadata"]["uid"] for name, each in queued.kueue.workloads.items()}
    queued.cluster.end("r-train-1", 75)
    queued.wait(400)
    queued.wait(400)
    assert queued.jobs["r-train-2"] == 4
    assert {name: each["metadata"]["uid"] for name, each in queued.kueue.workloads.items()} == uids


@pytest.mark.parametrize(
    ("train", "sizes"),
    [({"numNodes": 5}, (2, 3, 5)), ({"numNodes": 2}, (2, 0, 2)), ({"minNodes": 3}, (3, 1, 4))],
    ids=["more", "no more than the fewest", "more at least"],
)
def test_edited_number_of_nodes_changes_what_is_asked_for_at_the_next_attempt(
    train: dict[str, int], sizes: tuple[int, int, int]
) -> None:
    queued = whole()
    queued.kueue.nodes = 9
    queued.cluster.edit("r", train={**TRAIN, **train})
    queued.wait(9000)
    assert queued.jobs == {"r-train-1": 4}
    queued.cluster.end("r-train-1", 75)
    for _ in range(3):
        queued.wait(400)
    fewest, rest, size = sizes
    assert queued.jobs["r-train-2"] == size
    assert asks(queued, "r-train")[0] == fewest
    assert (EXTRA in queued.kueue.workloads) == (rest > 0)
    assert not rest or asks(queued, EXTRA)[0] == rest


@pytest.mark.parametrize("ends", ["complete", "failed", "suspended", "rigid"])
def test_both_places_are_left_at_the_end(ends: str) -> None:
    queued = whole(failurePolicy={"maxRestarts": 0})
    if ends == "suspended":
        queued.cluster.edit("r", suspend=True)
    elif ends == "rigid":
        queued.cluster.edit("r", train={**TRAIN, "minNodes": None})
        assert EXTRA in queued.kueue.workloads
        queued.cluster.runs["r"]["spec"]["failurePolicy"] = {}
        queued.cluster.end("r-train-1", 75)
    else:
        queued.cluster.end("r-train-1", 0 if ends == "complete" else 75)
    queued.settle()
    queued.wait(400)
    assert EXTRA not in queued.kueue.workloads
    if ends == "rigid":
        assert (asks(queued, "r-train"), queued.jobs["r-train-2"]) == ((4, None, 0), 4)
    else:
        assert queued.kueue.held_nodes == 0


def test_quota_that_is_taken_back_before_a_restart_is_given_back_at_once() -> None:
    queued = whole()
    queued.cluster.end("r-train-1", 75)
    queued.process.reconcile()
    assert (reason(queued.cluster), queued.kueue.held_nodes) == ("Restarting", 4)
    queued.kueue.take_back(2)
    queued.process.reconcile()
    assert (reason(queued.cluster), queued.kueue.held_nodes) == ("Restarting", 2)


@pytest.mark.parametrize(
    ("train", "rest"),
    [({"numNodes": 8}, 6), ({"numNodes": 3}, 1), ({"minNodes": 1}, 0), ({"minNodes": 3}, 0)],
    ids=["more", "less", "fewer at least", "more at least"],
)
def test_training_whose_number_of_nodes_was_edited_grows_only_to_what_its_next_attempt_may_have(
    train: dict[str, int], rest: int
) -> None:
    queued = shrunk()
    queued.wait(EVERY_S)
    queued.cluster.edit("r", train={**TRAIN, **train})
    queued.settle()
    assert (EXTRA in queued.kueue.workloads) == (rest > 0)
    assert not rest or asks(queued, EXTRA)[0] == rest
    queued.kueue.nodes = 8
    queued.wait(EVERY_S)
    assert queued.jobs == ({"r-train-3": 2 + rest} if rest else {"r-train-2": 2})


RIGID = {**TRAIN, "minNodes": None}


@pytest.mark.parametrize(
    "edit",
    [
        {"train": RIGID},
        {"train": RIGID, "pods": {**PODS, "queueing": "PerAttempt"}},
        {"pods": {key: value for key, value in PODS.items() if not key.startswith("queu")}},
    ],
    ids=["rigid", "queued by attempt", "not queued"],
)
@pytest.mark.parametrize("deleted", [False, True], ids=["evicted", "deleted by hand"])
def test_quota_that_is_taken_from_a_training_that_no_longer_follows_it_is_given_back(
    edit: dict[str, Any], deleted: bool
) -> None:
    queued = whole()
    uid = queued.cluster.jobs["r-train-1"]["metadata"]["uid"]
    queued.cluster.edit("r", **edit)
    queued.settle()
    assert queued.cluster.jobs["r-train-1"]["metadata"]["uid"] == uid, "an edit counts from the next attempt on"
    queued.kueue.take_back(2)
    if deleted:
        del queued.kueue.workloads[EXTRA]
    queued.settle()
    assert EXTRA not in queued.kueue.workloads
    assert queued.kueue.held_nodes <= 2
    assert [each["metadata"]["uid"] for each in queued.cluster.jobs.values()] != [uid]
    assert status(queued.cluster).stages[0].restarts == 0


@pytest.mark.parametrize(("nodes", "size"), [(2, 2), (4, 4)], ids=["none", "all"])
def test_attempt_after_a_failure_takes_what_there_is_and_does_not_wait_for_more(nodes: int, size: int) -> None:
    queued = shrunk()
    queued.wait(90)
    queued.kueue.nodes = nodes
    queued.cluster.end("r-train-2", 75)
    queued.settle()
    queued.wait(2)
    assert queued.jobs["r-train-3"] == size
    queued.start("r-train-3")
    assert (EXTRA in queued.kueue.workloads) == (size == 4), "what is not granted is no longer asked for"


@pytest.mark.parametrize(("value", "less"), [(7, 6), (-(2**31), -(2**31))], ids=["less", "none is less"])
def test_rest_of_the_quota_has_less_priority_than_its_class_gives(value: int, less: int) -> None:
    queued = Queued(4, pods={**PODS, "queuePriorityClass": "class"})
    queued.cluster.others["WorkloadPriorityClass"] = {"class": {"value": value}}
    queued.settle()
    assert (asks(queued, "r-train")[2], asks(queued, EXTRA)[2]) == (value, less)
    assert "priorityClassRef" not in queued.kueue.workloads[EXTRA]["spec"]


def test_rest_of_the_quota_asks_for_as_much_as_a_model_with_batch_statistics_can_use() -> None:
    train = {**TRAIN, "model": "RN50", "batchSize": 8, "numNodes": 8, "minNodes": 2}
    queued = Queued(6, train=train)
    queued.settle()
    assert (asks(queued, "r-train")[0], asks(queued, EXTRA)[:2]) == (2, (6, 2))
    assert queued.jobs == {"r-train-1": 4}, "of six nodes"


def test_workload_of_more_nodes_that_somebody_else_has_is_left_alone() -> None:
    queued = Queued(4)
    foreign = {"metadata": {"name": EXTRA, "namespace": "n", "uid": "x", "resourceVersion": "1"}, "spec": {}}
    queued.cluster.others["Workload"][EXTRA] = foreign
    settle(queued.process)
    queued.kueue.write("r-train", QuotaReserved="True", Admitted="True")
    queued.kueue.workloads["r-train"]["status"]["admission"] = {"podSetAssignments": [{"name": "main", "count": 2}]}
    settle(queued.process)
    assert (reason(queued.cluster, "Accepted"), queued.jobs) == ("NameConflict", {})
    assert queued.kueue.workloads[EXTRA] == foreign


@pytest.mark.parametrize(
    ("train", "jobs", "told"),
    [(TRAIN, {}, "InvalidSpec"), (RIGID, {"r-train-1": 4}, "Pending")],
    ids=["elastic", "rigid"],
)
def test_queue_that_gives_each_pod_its_place_does_not_take_elastic_trainings(
    train: dict[str, Any], jobs: dict[str, int], told: str
) -> None:
    queued = Queued(4, train=train)
    queued.process.reconcile()
    queued.kueue.admit()
    (assignment,) = queued.kueue.workloads["r-train"]["status"]["admission"]["podSetAssignments"]
    assignment["topologyAssignment"] = {"levels": ["host"], "slices": []}
    queued.settle()
    assert (queued.jobs, reason(queued.cluster)) == (jobs, told)


def test_quota_is_kept_while_pods_that_have_lost_their_job_use_it() -> None:
    queued = whole()
    del queued.cluster.jobs["r-train-1"]
    for found in queued.cluster.pods.values():
        found["metadata"]["ownerReferences"] = []
    queued.kueue.take_back(0)
    queued.process.reconcile()
    assert queued.kueue.held_nodes == 4
    queued.cluster.pods.clear()
    queued.settle()
    assert (queued.kueue.held_nodes, queued.jobs) == (0, {})


def test_training_that_waits_for_another_run_holds_no_quota() -> None:
    queued = whole()
    extra = queued.kueue.workloads[EXTRA]
    message = Cause(exit_code=75, reason="ComputedElsewhere", message="computed by run other: wait").encoded()
    queued.cluster.end("r-train-1", 75, message=message)
    queued.wait(10)
    queued.wait(10)
    assert (list(queued.jobs), queued.kueue.workloads) == (["r-train-1", "r-wait-2"], {})
    queued.cluster.run_pods("r-wait-2")
    queued.kueue.workloads[EXTRA] = extra  # the operator died before it was deleted
    queued.settle()
    assert queued.kueue.workloads == {}
