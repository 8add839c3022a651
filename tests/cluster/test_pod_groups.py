"""Gangs on fake nodes that have room for one: with a PodGroup none starts partially; without it pods are scheduled one
by one.

An elastic one on real nodes: its PodGroup needs all its pods at first, and fewer once they have waited.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import World, slots, stages, why, world
from tests.cluster.queues import STAGES, TRAIN
from tests.cluster.tools import Kubectl, KubectlError, cannot, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
NODES = 2
BINDING_S = 3.0
"""The scheduler binds the pods of a gang one after the other."""
SLOT, WISHED, FEWEST, WAIT_S = "example.org/place", 3, 2, 15
"""What real nodes have of an extended resource, the gang's nodes, and how long it waits for all of them."""
GANG: dict[str, Any] = {
    "resources": {"nvidia.com/gpu": 8},
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}
"""Each pod takes a whole fake node, and a gang of two all of them."""


@pytest.fixture(scope="session")
def served(kubectl: Kubectl) -> None:
    if "podgroups" not in kubectl("api-resources", "--api-group=scheduling.k8s.io"):
        cannot("PodGroups are not served: down, then up with TEST_CLUSTER_FEATURES=GenericWorkload=true")


@pytest.fixture
def place(served: None, kwok: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    with world(kubectl, recipe_image, tmp_path) as found:
        yield found


def start(place: World, *names: str, gang: str) -> None:
    """Create runs in one call."""
    documents = [place.runs.document(name, **{**STAGES, "train": {**TRAIN, "numNodes": NODES}}) for name in names]
    for document in documents:
        document["spec"]["pods"] |= {**GANG, "gang": gang}
    place.kubectl.apply(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}), "--namespace", place.namespace
    )


def without_nodes(place: World, name: str) -> list[str]:
    """The pods of a run's gang that have no node though another one has."""
    pods = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in place.runs.pods(name)}
    return [pod for pod, node in pods.items() if not node] if any(pods.values()) else []


def compete(place: World, number: int) -> None:
    """Two gangs at once, each of which needs both nodes: each starts whole, one after the other."""
    names = (f"a-{number}", f"b-{number}")
    start(place, *names, gang="PodGroup")
    since: dict[str, float] = {}

    def ended() -> bool:
        half = {pod for name in names for pod in without_nodes(place, name)}
        for pod in half:
            since.setdefault(pod, time.monotonic())
        for pod in since.keys() - half:
            del since[pod]
        late = [pod for pod, at in since.items() if time.monotonic() > at + BINDING_S]
        assert not late, f"a partial start: {late} have no node"
        return all(place.runs.condition(name, "Complete").get("status") == "True" for name in names)

    wait_until(ended, "both gangs have run", 90)


def test_gangs_with_pod_groups_never_start_partially(place: World) -> None:
    for number in range(3):
        compete(place, number)


def elastic(place: World, name: str, *ends: str) -> None:
    """A training that wishes for three nodes and needs two, of which each pod takes a place."""
    train = {**TRAIN, "numNodes": WISHED, "minNodes": FEWEST}
    policy = {"elasticAfterSeconds": WAIT_S}
    document = place.runs.document(name, {"train": list(ends)}, **{**STAGES, "train": train, "failurePolicy": policy})
    document["spec"]["pods"] |= {"resources": {SLOT: 1}, "gang": "PodGroup"}
    place.kubectl.create(document, place.namespace)


def group(place: World, name: str) -> int:
    """The minCount of a PodGroup; 0 if there is none."""
    try:
        path = f"/apis/scheduling.k8s.io/v1beta1/namespaces/{place.namespace}/podgroups/{name}"
        return place.kubectl.read(path)["spec"]["schedulingPolicy"]["gang"]["minCount"]
    except KubectlError:
        return 0


def running(place: World, name: str, attempt: int) -> int:
    """How many pods of an attempt run."""
    pods = (pod for pod in place.runs.pods(name) if pod["metadata"]["labels"]["diht.dev/attempt"] == str(attempt))
    return sum(pod["status"]["phase"] == "Running" for pod in pods)


def test_elastic_gang_waits_for_all_its_nodes_and_then_starts_with_those_that_there_are(place: World) -> None:
    with slots(place.kubectl, SLOT, (1, 1)):
        elastic(place, "small", "hang", "hang", "hang", "ok")
        wait_until(lambda: group(place, "small-train-1") == WISHED, "a PodGroup that needs all", 30)
        until = time.monotonic() + WAIT_S - 5
        while time.monotonic() < until:
            assert (group(place, "small-train-1"), running(place, "small", 1)) == (WISHED, 0), (
                "it started small at once"
            )
            time.sleep(0.5)
        wait_until(lambda: group(place, "small-train-1") == FEWEST, "a PodGroup that needs fewer", 30)
        assert "and goes on with 2 or more" in why(place.runs, "small") or running(place, "small", 1)
        wait_until(lambda: running(place, "small", 2) == FEWEST, "an attempt on the nodes that there are", 60)
        stage = stages(place.runs.status("small"))["train"]
        assert (stage["nodes"], stage["wishedNodes"], stage.get("restarts", 0)) == (FEWEST, WISHED, 0)
        assert group(place, "small-train-2") == FEWEST
        assert place.runs.events("small").count("Resized") == 2
