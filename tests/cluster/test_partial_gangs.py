"""Two gangs without PodGroups, each with half of the nodes that both need: one is withdrawn, the other completes, and
the first comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import Runs, one_slot_each, stages, tainted, why, world
from tests.cluster.queues import STAGES, TRAIN
from tests.cluster.tools import PATIENCE, Kubectl, cannot, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SLOT, KEPT = "example.org/slot", "example.org/kept"
NODES = 2
LATER_S = 3600
"""The second gang's time is not over before the first has been withdrawn."""
SHORT_S = 10 * PATIENCE

Start = Callable[[str, dict[str, Any], dict[str, Any]], None]
"""Starts a gang by its name, `pods` and `failurePolicy`."""


@pytest.fixture
def slots(kubectl: Kubectl, own: bool) -> Iterator[None]:
    """A slot on each node, for one pod."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its nodes get no resource from here")
    with one_slot_each(kubectl, SLOT):
        yield


def give_way(runs: Runs, start: Start, timeout_s: int) -> None:
    """The first gang gets the slot of node 0, the second one that of node 1; the first one's time is over before the
    second's.
    """

    def begin(name: str, node: str, timeout_s: int, **pods: Any) -> None:
        policy = {"maxRestarts": 0, "schedulingTimeoutSeconds": timeout_s}
        start(name, {"resources": {SLOT: 1}, "gang": "None", **pods}, policy)
        wait_until(lambda: placed(runs, name) == ["", node], f"half of {name} on {node}", 60)

    with tainted(runs.kubectl, "node-1", KEPT):
        begin("first", "node-0", timeout_s)
        begin("second", "node-1", LATER_S, tolerations=[{"key": KEPT, "operator": "Exists"}])
    wait_until(lambda: "only some of its pods found a node" in why(runs, "first"), "the withdrawal", timeout_s + 120)
    second = runs.wait_for("second", "Complete", timeout_s=300)
    assert stages(second)["train"].get("restarts", 0) == 0
    first = runs.wait_for("first", "Complete", timeout_s=300)
    stage, withdrawn = stages(first)["train"], first["attempts"][0]
    assert stage["completionTime"] >= second["completionTime"]
    assert (stage["attempt"], stage["restarts"], stage.get("restartsCountTowardsMax", 0)) == (2, 1, 0)
    assert (withdrawn["reason"], withdrawn.get("exitCode"), withdrawn.get("counted", False)) == (
        "SchedulingTimeout",
        None,
        False,
    )
    assert "first-train-1" not in runs.children("first"), "its pods went with its Job"


def placed(runs: Runs, name: str) -> list[str]:
    """The nodes of a run's pods, of which a waiting one has none."""
    return sorted(pod["spec"].get("nodeName", "") for pod in runs.pods(name))


def test_gang_that_holds_half_gives_way_and_comes_back(
    slots: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:

        def start(name: str, pods: dict[str, Any], policy: dict[str, Any]) -> None:
            train = {**TRAIN, "numNodes": NODES, "pods": pods}
            place.runs.apply(name, **{**STAGES, "train": train}, failurePolicy=policy)

        give_way(place.runs, start, SHORT_S)
