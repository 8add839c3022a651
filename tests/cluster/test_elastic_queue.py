"""Two elastic trainings and rigid ones in one quota of a real Kueue: extra nodes are given back by priority, and come
back slowly.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import stages, why, world
from tests.cluster.queues import TRAIN, OneAtATime
from tests.cluster.tools import Kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
WHOLE, FEWEST, RIGID = 3, 1, 2
QUOTA = "600m"
"""For six pods: two elastic trainings as they wish to be."""
POD = {"resources": {"cpu": "100m"}}
EVERY_S = 30
POLICY = {"elasticAfterSeconds": 10, "elasticEverySeconds": EVERY_S, "maxRestarts": 0}
ELASTIC: dict[str, Any] = {**TRAIN, "numNodes": WHOLE, "minNodes": FEWEST}


def running(queue: OneAtATime, name: str) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in queue.runs.pods(name))


def wait_for_size(queue: OneAtATime, name: str, size: int, timeout_s: float = 90) -> None:
    """Wait until an elastic training runs on `size` nodes."""

    def is_so() -> bool:
        stage = stages(queue.runs.status(name)).get("train", {})
        assert stage.get("state") not in ("Failed", "Complete"), stage
        return (stage.get("nodes"), running(queue, name)) == (size, size)

    wait_until(is_so, f"{name} on {size} nodes", timeout_s)


def attempts(queue: OneAtATime, name: str) -> list[dict[str, Any]]:
    return queue.runs.status(name)["attempts"]


def seconds_of(attempt: dict[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(attempt[name]) for name in ("startTime", "completionTime"))
    return (ended - begun).total_seconds()


@pytest.mark.slow
def test_rigid_runs_take_the_extra_nodes_of_the_elastic_one_of_less_priority_which_grows_again(
    kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:
        queue = OneAtATime(kubectl, place.runs, cpu=QUOTA)
        for name, pods in (("high", {"queuePriorityClass": "urgent"}), ("low", {})):
            queue.start(name, "hang", train=ELASTIC, failurePolicy=POLICY, pods={**POD, **pods})
            wait_for_size(queue, name, WHOLE)
        assert queue.reserved()["cpu"] == QUOTA
        asked = queue.workload("high-train-extra")["spec"]
        assert (asked["priority"], asked["podSets"][0]["count"], asked["podSets"][0]["minCount"]) == (99, 2, 1)
        for number in (1, 2):
            rigid = queue.start(f"rigid-{number}", "hang", train={**TRAIN, "numNodes": RIGID}, pods=POD)
            wait_until(lambda: running(queue, rigid) == RIGID, f"{rigid} is not starved", 90)  # noqa: B023 (called at once)
            wait_for_size(queue, "low", FEWEST)
            assert attempts(queue, "low")[-2]["reason"] == "QuotaChanged"
            assert "its queue has quota for no more" in why(place.runs, "low")
            place.runs.patch(rigid, {"suspend": True})
            wait_for_size(queue, "low", WHOLE, EVERY_S + 120)
        gave_way = [each for each in attempts(queue, "low") if each.get("reason")]
        assert [each["reason"] for each in gave_way] == ["QuotaChanged"] * 4
        assert all(seconds_of(each) >= EVERY_S for each in gave_way[1::2]), "those that gave way to a larger one"
        (kept,) = attempts(queue, "high")
        assert kept["number"] == 1, "the one of more priority has lost nothing"
        assert stages(place.runs.status("low"))["train"].get("restarts", 0) == 0
        for name in ("high", "low"):
            place.runs.patch(name, {"suspend": True})
        wait_until(lambda: queue.reserved() == {"reserving": 0, "admitted": 0, "cpu": "0"}, "no quota in use", 60)
