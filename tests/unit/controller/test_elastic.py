"""Elastic gangs at the operator: pods that find no node, the Job of fewer pods, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diht_k8s.api.reports import Progress, TimeSpent
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import JobReference, StageState, StageStatus, Status
from diht_k8s.cli.status_sentences import details, sentence
from diht_k8s.controller import metrics
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.controller.kueue.queued_plan import job_of
from diht_k8s.controller.kueue.workload import shape
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.run_metrics import PARTS
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.kube.errors import ClusterError
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.plan import Start
from tests.unit.controller.documents import NO_NODE, NOW, at, job, pod
from tests.unit.controller.elastic import NODES, elastic, grouped, min_count, shrunk, start, told
from tests.unit.controller.fake import FakeCluster, Nodes, Process
from tests.unit.controller.kueue import Kueue
from tests.unit.controller.observed import observe
from tests.unit.controller.stories import Clock, reason, settle, status


def test_gang_whose_pod_finds_no_node_starts_again_with_those_that_do_and_says_so() -> None:
    cluster, process, clock = shrunk()
    clock.now += 59
    settle(process)
    assert (sorted(cluster.jobs), reason(cluster)) == (["r-train-2"], "Unschedulable")
    (before,) = status(cluster).stages
    assert (before.nodes, before.wished_nodes, before.restarts) == (4, 4, 1)
    clock.now += 1
    process.reconcile()
    (stage,) = status(cluster).stages
    assert (stage.state, stage.nodes, stage.wished_nodes) == (StageState.RESTARTING, 3, 4)
    settle(process)
    spec = cluster.jobs["r-train-3"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (3, 3)
    start(cluster, "r-train-3", without=0, since=clock.now)
    settle(process)
    found = status(cluster)
    (stage,) = found.stages
    assert (stage.nodes, stage.wished_nodes, stage.attempt, stage.restarts) == (3, 4, 3, 1)
    assert [(each.number, each.reason, each.counted) for each in found.attempts] == [
        (1, "NodeLost", False),
        (2, "Resized", False),
        (3, "", False),
    ]
    assert told(cluster).count("Resized: train: 3 of 4 nodes have room, and it goes on with them") == 1
    assert (metrics.ELASTIC_NODES._value.get(), metrics.WISHED_NODES._value.get()) == (3, 4)
    assert "attempt 3 runs on 3 of 4 nodes" in sentence("r", found)
    lost = "pod r-train-1-3 on node node-3 is lost (node not ready)"
    since = found.attempts[-1].start_time
    assert (
        f"train: on 3 of 4 nodes since {since}: {lost}, and no other node had room; each later attempt asks for all"
        in details(found)
    )


@pytest.mark.parametrize(
    ("without", "fewest", "says"),
    [
        (1, 2, "train: goes on with 3 of 4 nodes at {in_60} unless more have room: 0/2 nodes are available"),
        (
            3,
            2,
            "train: cannot go on with 1 of 4 nodes, and gives them back at {in_600} unless more have room: 0/2 "
            "nodes are available",
        ),
        (1, None, "train: 0/2 nodes are available"),
        (4, 2, "train: 0/2 nodes are available"),
    ],
    ids=["it will shrink", "too few have room", "rigid", "none has room: it waits for all"],
)
def test_gang_that_waits_says_what_becomes_of_it(without: int, fewest: int | None, says: str) -> None:
    cluster, clock = elastic(minNodes=fewest), Clock()
    process = Process(cluster, clock)
    settle(process)
    start(cluster, "r-train-1", without=without, since=NOW)
    settle(process)
    says = says.format(in_60=at(NOW + 60), in_600=at(NOW + 600))
    assert sentence("r", status(cluster)) == f"r does not run (Unschedulable): {says}"
    writes = len(cluster.writes)
    clock.now += 20
    settle(process)
    assert len(cluster.writes) == writes, "the same wait is told once"


@pytest.mark.parametrize(
    ("fewest", "parts"),
    [(2, {"productive": 300, "missing_nodes": 100}), (None, {"productive": 400})],
    ids=["elastic", "rigid by an edit that came later"],
)
def test_time_on_three_of_four_nodes_counts_in_node_seconds(fewest: int | None, parts: dict[str, int]) -> None:
    cluster, process, clock = shrunk()
    clock.now += 60
    process.reconcile()
    if fewest is None:
        del cluster.runs["r"]["spec"]["train"]["minNodes"]
        cluster.edit("r", train={**cluster.runs["r"]["spec"]["train"], "numNodes": 3})
    settle(process)
    start(cluster, "r-train-3", without=0, since=clock.now)
    job = cluster.jobs["r-train-3"]
    job["status"] = {**job.get("status", {}), "startTime": at(clock.now)}
    job["metadata"] |= {"creationTimestamp": at(clock.now), "resourceVersion": "1000"}
    settle(process)
    (before,) = status(cluster).stages
    spent = TimeSpent(steps=400, path=400, kept=400)
    cluster.logs["r-train-3-0"] = Progress(stage=Stage.TRAIN, step="steps", done=1, total=9, time_spent=spent).line()
    clock.now += 400
    settle(process)
    (stage,) = status(cluster).stages
    assert before.goodput is not None
    assert stage.goodput is not None
    grown = {
        part: value - getattr(before.goodput, f"{part}_seconds")
        for part in PARTS
        if (value := getattr(stage.goodput, f"{part}_seconds")) != getattr(before.goodput, f"{part}_seconds")
    }
    assert grown == parts
    assert stage.goodput.wall_seconds - before.goodput.wall_seconds == 400


KNOWN = NodeFault("node-3", "KernelDeadlock", "condition KernelDeadlock (stuck)")
OTHERS = [NodeFault(f"node-{index}", "KernelDeadlock", "condition KernelDeadlock (stuck)") for index in range(4)]


def on_faulty_node(faults: list[NodeFault], **train: Any) -> tuple[FakeCluster, Process, Clock, Nodes]:
    """A gang of four that has moved away from nodes with faults, and came to them again: they take pods, and no others
    do.
    """
    cluster, clock, nodes = elastic(**train), Clock(), Nodes()
    process = Process(cluster, clock, nodes)
    settle(process)
    start(cluster, "r-train-1", without=0, since=NOW)
    settle(process)
    nodes.found = {fault.node: (replace(fault, at_once=True),) for fault in faults}
    settle(process)
    clock.now += 10
    settle(process)
    start(cluster, "r-train-2", without=0, since=clock.now)
    settle(process)
    return cluster, process, clock, nodes


@pytest.mark.parametrize(
    ("faults", "train", "nodes"),
    [
        ([KNOWN], {}, 3),
        (OTHERS[:2], {}, 2),
        (OTHERS[:3], {}, None),
        (OTHERS, {}, None),
        ([KNOWN], {"minNodes": None}, None),
        ([KNOWN], {"minNodes": 4}, None),
    ],
    ids=["one", "two", "fewer healthy ones than it may have", "all, by a monitor that errs", "rigid", "no fewer"],
)
def test_gang_that_only_faulty_nodes_take_goes_on_with_the_healthy_ones(
    faults: list[NodeFault], train: dict[str, Any], nodes: int | None
) -> None:
    cluster, process, clock, _ = on_faulty_node(faults, **train)
    clock.now += 59
    settle(process)
    assert list(cluster.jobs) == ["r-train-2"]
    if nodes is not None:
        says = (
            f"r runs: train: attempt 2 runs; goes on with {nodes} of 4 nodes at {at(clock.now + 1)}: the others "
            f"have faults"
        )
        assert sentence("r", status(cluster)).startswith(says)
    clock.now += 1
    settle(process)
    clock.now += 600
    settle(process)
    if nodes is None:
        assert list(cluster.jobs) == ["r-train-2"], "it resumes there rather than not at all"
        return
    assert [job["spec"]["parallelism"] for job in cluster.jobs.values()] == [nodes]
    found = status(cluster)
    (stage,) = found.stages
    assert (stage.nodes, stage.wished_nodes, stage.restarts) == (nodes, 4, 1)
    assert [(each.number, each.reason) for each in found.attempts[:2]] == [(1, "NodeUnhealthy"), (2, "Resized")]
    assert any("has the condition KernelDeadlock (stuck)" in line for line in details(found))


def test_gang_on_a_node_whose_fault_is_gone_keeps_all_nodes() -> None:
    cluster, process, clock, nodes = on_faulty_node([KNOWN])
    clock.now += 30
    nodes.found = {}
    settle(process)
    clock.now += 600
    settle(process)
    assert list(cluster.jobs) == ["r-train-2"]


def test_shrunk_gang_that_loses_a_node_is_started_on_all_nodes_first() -> None:
    cluster, process, clock = shrunk()
    clock.now += 60
    settle(process)
    start(cluster, "r-train-3", without=0, since=clock.now)
    settle(process)
    cluster.runs["r"]["spec"]["failurePolicy"]["maxInfrastructureRestarts"] = 9
    cluster.end("r-train-3", 75)
    clock.now += 400
    settle(process)
    clock.now += 400
    settle(process)
    assert cluster.jobs["r-train-4"]["spec"]["parallelism"] == NODES
    (stage,) = status(cluster).stages
    assert (stage.nodes, stage.wished_nodes) == (4, 4)


def test_shrunk_gang_whose_job_is_removed_wishes_for_all_nodes() -> None:
    cluster, process, clock = shrunk()
    clock.now += 60
    settle(process)
    start(cluster, "r-train-3", without=0, since=clock.now)
    settle(process)
    del cluster.jobs["r-train-3"]
    cluster.pods.clear()
    clock.now += 30
    settle(process)
    assert [job["spec"]["parallelism"] for job in cluster.jobs.values()] == [NODES]
    (stage,) = status(cluster).stages
    assert (stage.nodes, stage.wished_nodes) == (4, 4)


@pytest.mark.parametrize("there", [True, False], ids=["as it trains", "before it is there"])
def test_shrunk_gang_that_its_queue_evicts_wishes_for_all_nodes(there: bool) -> None:
    cluster = elastic(pods={"queueName": "gpus", "queueing": "PerRun"})
    kueue = Kueue(cluster, quota=2)
    for _ in range(2):  # the fewest nodes, and the rest
        settle(Process(cluster, Clock()))
        kueue.admit()
    cluster, process, clock = shrunk(cluster)
    kueue.clock = clock
    clock.now += 60
    if there:
        settle(process)
        start(cluster, "r-train-3", without=0, since=clock.now)
        settle(process)
        assert (cluster.jobs["r-train-3"]["spec"]["parallelism"], kueue.conditions("r-train")["PodsReady"]) == (
            3,
            "True",
        )
    else:
        process.reconcile()
    kueue.evict("r-train")
    settle(process)
    assert (cluster.jobs, reason(cluster)) == ({}, "Queued")
    for _ in range(2):
        kueue.admit()
        settle(process)
    assert cluster.jobs["r-train-3"]["spec"]["parallelism"] == NODES


def test_pods_with_a_node_are_counted_where_others_find_none() -> None:
    waiting = [pod(index, phase="Pending", conditions=NO_NODE, node="") for index in (2, 3)]
    pulling = pod(1, phase="Pending")
    (found,) = observe([job(size=4)], [pod(0), pulling, *waiting])
    assert (found.attempt.state, found.attempt.placed) == (AttemptState.PENDING, 2)


def objects(cluster: FakeCluster, nodes: int | None, **more: Any) -> dict[str, dict[str, Any]]:
    cached = cached_run(cluster.runs["r"])
    run = DihtRun.model_validate({**cluster.runs["r"], "metadata": {"name": "r"}})
    made = build_objects(cached, run, Start(Stage.TRAIN, 2, "r-train-2", nodes=nodes), **more)
    return {each["kind"]: each for each in made}


def environment(made: dict[str, dict[str, Any]]) -> dict[str, str]:
    (container,) = made["Job"]["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "") for each in container["env"]}


@pytest.mark.parametrize(("nodes", "size"), [(None, 4), (3, 3), (2, 2), (1, 1)], ids=["all", "three", "two", "one"])
def test_job_of_a_shrunk_gang_has_its_number_of_pods_and_ranks(nodes: int | None, size: int) -> None:
    made = objects(elastic(minNodes=1, policy={"restart": "InPlace"}), nodes, token="t", pod_groups=True)
    spec, env = made["Job"]["spec"], environment(made)
    assert (spec["parallelism"], spec["completions"]) == (size, size)
    assert (env["DIHT_NUM_NODES"], env["DIHT_WORKERS"]) == (str(size), str(size))
    assert f'"numNodes":{size}' in env["DIHT_RUN"] or size == 1
    assert ("DIHT_CONTROL_TOKEN" in env, "PodGroup" in made) == (size > 1, size > 1)


@pytest.mark.parametrize(("least", "nodes", "count"), [(2, None, 4), (2, 3, 3), (None, None, 4)])
def test_pod_group_of_a_gang_needs_all_its_pods_at_first(least: int | None, nodes: int | None, count: int) -> None:
    made = objects(elastic(minNodes=least), nodes, pod_groups=True)
    assert made["PodGroup"]["spec"]["schedulingPolicy"]["gang"]["minCount"] == count


def test_pod_group_is_lowered_to_the_fewest_nodes_once_its_pods_have_waited_and_the_gang_shrinks() -> None:
    cluster, process, clock = grouped()
    clock.now += 59
    settle(process)
    assert min_count(cluster, "r-train-1") == NODES
    clock.now += 1
    settle(process)
    assert (min_count(cluster, "r-train-1"), cluster.writes.count("patch PodGroup r-train-1")) == (2, 1)
    said = "train: waits for 4 nodes, and goes on with 2 or more: not all have room"
    assert (reason(cluster), said in details(status(cluster))) == ("Unschedulable", True)
    start(cluster, "r-train-1", without=1, since=clock.now)
    settle(process)
    assert said not in details(status(cluster))
    clock.now += 60
    settle(process)
    assert (cluster.jobs["r-train-2"]["spec"]["parallelism"], min_count(cluster, "r-train-2")) == (3, 3)
    resized = [each for each in told(cluster) if each.startswith("Resized")]
    assert resized == [
        "Resized: train: not all 4 nodes have room, and 2 are enough from now on",
        "Resized: train: 3 of 4 nodes have room, and it goes on with them",
    ]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ClusterError(404, "NotFound", "podgroups r-train-1 not found"), "Unschedulable"),
        (ClusterError(403, "Forbidden", "diht-operator cannot patch resource podgroups"), "PermissionDenied"),
    ],
    ids=["gone", "forbidden"],
)
def test_pod_group_that_cannot_be_lowered_is_told_where_a_person_can_help(answer: ClusterError, says: str) -> None:
    cluster, process, clock = grouped()
    cluster.refuse["patch PodGroup"] = answer
    clock.now += 60
    settle(process)
    assert (reason(cluster), list(cluster.jobs)) == (says, ["r-train-1"])


def test_place_of_an_elastic_gang_in_the_queue_does_not_depend_on_its_size() -> None:
    cluster = elastic(pods={"queueName": "q", "queueing": "PerRun"})
    cached, run = (
        cached_run(cluster.runs["r"]),
        DihtRun.model_validate({**cluster.runs["r"], "metadata": {"name": "r"}}),
    )
    shapes = {shape(job_of(cached, run, Start(Stage.TRAIN, 2, "r-train-2", nodes=nodes))) for nodes in (None, 3)}
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("state", "there", "wished", "nodes"),
    [
        (StageState.RESTARTING, True, 4, 3),
        (StageState.RESTARTING, True, 3, 3),
        (StageState.RUNNING, False, 4, 3),
        (StageState.RUNNING, False, 3, None),
        (StageState.RUNNING, True, 4, None),
    ],
    ids=["gives way", "gives way to all since an edit", "starts", "starts with all", "is there"],
)
def test_number_of_nodes_that_was_decided_on_is_remembered_until_its_gang_is_there(
    state: StageState, there: bool, wished: int, nodes: int | None
) -> None:
    job = JobReference(kind="Job", name="r-train-2") if there else None
    stage = StageStatus(
        name="train", stage=Stage.TRAIN, state=state, attempt=2, nodes=3, wished_nodes=wished, workload=job
    )
    assert saved_run_status(Status(stages=[stage])).of(Stage.TRAIN).nodes == nodes


def test_edited_number_of_nodes_leaves_the_gang_that_runs_alone() -> None:
    cluster, clock = elastic(), Clock()
    process = Process(cluster, clock)
    settle(process)
    start(cluster, "r-train-1", without=0, since=NOW)
    settle(process)
    assert "fewer" not in sentence("r", status(cluster))
    for wished in (6, 2):
        cluster.edit("r", train={**cluster.runs["r"]["spec"]["train"], "numNodes": wished})
        settle(process)
        (stage,) = status(cluster).stages
        assert (list(cluster.jobs), stage.nodes, stage.wished_nodes) == (["r-train-1"], 4, wished)
        assert not any("Resized" in each for each in told(cluster))
    cluster.end("r-train-1", 75)
    clock.now += 10
    settle(process)
    clock.now += 400
    settle(process)
    assert cluster.jobs["r-train-2"]["spec"]["parallelism"] == 2
