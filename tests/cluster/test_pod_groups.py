"""Gangs on fake nodes that have room for one: with a PodGroup none starts partially; without it pods are scheduled one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import World, world
from tests.cluster.queues import STAGES, TRAIN
from tests.cluster.tools import Kubectl, cannot, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
NODES = 2
BINDING_S = 3.0
"""The scheduler binds the pods of a gang one after the other."""
GANG: dict[str, Any] = {
    "resources": {"nvidia.com/gpu": 8},
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}
"""Each pod takes a whole fake node, and a gang of two all of them."""


@pytest.fixture
def place(kwok: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    if "podgroups" not in kubectl("api-resources", "--api-group=scheduling.k8s.io"):
        cannot("PodGroups are not served: down, then up with TEST_CLUSTER_FEATURES=GenericWorkload=true")
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


@pytest.mark.slow
def test_gangs_with_pod_groups_never_start_partially_in_a_hundred_tries(place: World) -> None:
    for number in range(100):
        compete(place, number)


def test_gang_without_a_pod_group_is_scheduled_pod_by_pod(place: World) -> None:
    """As before: what starts partially is withdrawn (test_partial_gangs.py), and no PodGroup is made."""
    start(place, "one", gang="None")
    place.runs.wait_for("one", "Complete", timeout_s=60)
    assert place.kubectl("get", "podgroups", "--namespace", place.namespace, "--output", "name") == ""
