"""Which nodes attempts avoid, and how."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reports import Cause
from diht_k8s.api.status import AttemptStatus
from diht_k8s.controller.avoided_nodes import nodes_to_avoid, prefer_other_nodes
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import ONE, Clock, make, settle, status


def fail(process: Process, clock: Clock, cluster: FakeCluster, name: str, code: int, reason: str = "R") -> None:
    settle(process)
    assert name in cluster.jobs, sorted(cluster.jobs)
    cluster.end(name, code, message=Cause(exit_code=code, reason=reason, message="m").encoded())
    settle(process)
    clock.now += 100


@pytest.mark.parametrize(
    ("codes", "nodes"),
    [((75,), []), ((75, 1), ["node-0"]), ((137, 139), ["node-0"]), ((143, 143), []), ((75, 143), [])],
)
def test_node_on_which_two_attempts_failed_is_avoided(codes: tuple[int, ...], nodes: list[str]) -> None:
    cluster, clock = make(**ONE, filter={"workers": 1}), Clock()
    process = Process(cluster, clock)
    for number, code in enumerate(codes, 1):
        fail(process, clock, cluster, f"r-filter-{number}", code)
    settle(process)
    [stage] = status(cluster).stages
    assert stage.avoid_nodes == nodes
    pod = cluster.jobs[f"r-filter-{len(codes) + 1}"]["spec"]["template"]["spec"]
    asked = pod.get("affinity", {}).get("nodeAffinity", {}).get("preferredDuringSchedulingIgnoredDuringExecution", [])
    fields = [field for term in asked for field in term["preference"]["matchFields"]]
    assert [field["values"] for field in fields] == [[node] for node in nodes]


def test_failures_of_another_stage_count_against_no_node_and_nothing_is_dropped() -> None:
    def attempt(stage: str, number: int, node: str) -> AttemptStatus:
        return AttemptStatus(stage=stage, number=number, node=node)

    attempts = [attempt("filter", 1, "a"), attempt("train", 1, "a"), attempt("train", 2, "b"), attempt("train", 3, "b")]
    assert nodes_to_avoid(["x"], attempts, "train") == ["x", "b"]
    assert nodes_to_avoid(["b"], [], "train") == ["b"]


def test_avoided_nodes_are_added_to_the_runs_own_affinity() -> None:
    own = {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    required = {"nodeSelectorTerms": []}
    node = {
        "preferredDuringSchedulingIgnoredDuringExecution": [own],
        "requiredDuringSchedulingIgnoredDuringExecution": required,
    }
    job: dict[str, Any] = {"spec": {"template": {"spec": {"affinity": {"nodeAffinity": node}}}}}
    prefer_other_nodes(job, [])
    assert node["preferredDuringSchedulingIgnoredDuringExecution"] == [own]
    prefer_other_nodes(job, ["n1", "n2"])
    first, wish = node["preferredDuringSchedulingIgnoredDuringExecution"]
    assert (first, node["requiredDuringSchedulingIgnoredDuringExecution"]) == (own, required)
    assert wish["weight"] == 100
    assert wish["preference"] == {
        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n1", "n2")]
    }


def test_stop_that_a_person_asked_for_counts_against_no_node() -> None:
    cluster, clock = make(**ONE, filter={"workers": 1}), Clock()
    process = Process(cluster, clock)
    for number in (1, 2):
        settle(process)
        cluster.run_pods(f"r-filter-{number}")
        cluster.edit("r", suspend=True)
        cluster.end(f"r-filter-{number}", 143, message=Cause(exit_code=143, reason="R", message="m").encoded())
        settle(process)
        cluster.edit("r", suspend=False)
        settle(process)
    found = status(cluster)
    assert [attempt.node for attempt in found.attempts] == ["", "", ""]
    assert found.stages[0].avoid_nodes == []
