"""A fault that a monitor reports of a node: the gang there saves and moves to another one, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.operators import World, faulty, stages, world
from tests.cluster.queues import STAGES
from tests.cluster.tools import Kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
FAULT = "FaultOfOneTest"
"""The operators of other tests do not know it."""
OPTIONS = ("--no-lease", "--node-faults", json.dumps([{"condition": FAULT, "move": "AtOnce"}]))


def node_of(place: World, name: str, attempt: int) -> str:
    """The node of an attempt's pod, once its program runs."""
    found = {
        pod["metadata"]["labels"]["diht.dev/attempt"]: pod["spec"].get("nodeName", "")
        for pod in place.runs.pods(name)
        if pod["status"]["phase"] == "Running"
    }
    return found.get(str(attempt), "")


def test_gang_moves_to_another_node_and_names_node_and_condition(
    kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path, options=OPTIONS) as place:
        place.runs.apply("moves", {"train": ["hang"]}, **STAGES)
        old = wait_until(lambda: node_of(place, "moves", 1), "the first attempt", 90)
        saved = place.runs.folder / "moves/runs/latest/train/step"
        wait_until(lambda: saved.exists() and len(saved.read_bytes()) > 3, "a few steps", 30)
        with faulty(kubectl, old, FAULT):
            new = wait_until(lambda: node_of(place, "moves", 2), "the next attempt", 120)
            assert new != old
            metric = f'diht_operator_unhealthy_nodes{{fault="{FAULT}",node="{old}"}} 1.0'
            assert metric in place.operator.get("/metrics")[1]
            cause = stages(place.runs.status("moves"))["train"]["cause"]
            assert (cause["node"], cause["reason"]) == (old, "NodeUnhealthy")
            assert f"node {old} of pod moves-train-1-0" in cause["message"]
            assert f"has the condition {FAULT} (a fault that a test reports)" in cause["message"]
        wait_until(lambda: "unhealthy_nodes{" not in place.operator.get("/metrics")[1], "the metric's end", 60)
