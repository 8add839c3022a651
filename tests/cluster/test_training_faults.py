"""A real training of two pods over gloo, broken in every way that a cluster knows: it ends as if nothing had happened.

Each test breaks the same training once and compares its losses, step by step, with those of a training that nothing
befell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.operators import APART, condition, evict, stages
from tests.cluster.tools import CLUSTER, Parts, wait_until
from tests.cluster.trainings import EVERY_STEPS, STEPS, Trainings, check_end, node_to_lose

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive, pytest.mark.slow, pytest.mark.timeout(900)]


def restart(trainings: Trainings, name: str, reason: str, *, counted: bool, timeout_s: float = 300) -> dict[str, Any]:
    """Wait for the end of a training that started again once; what its status says."""
    runs = trainings.place.runs
    status = runs.wait_for(name, "Complete", timeout_s=timeout_s)
    stage = stages(status)["train"]
    assert (stage["attempt"], stage["restarts"], stage.get("restartsCountTowardsMax", 0)) == (2, 1, int(counted))
    first = status["attempts"][0]
    assert (first["number"], first.get("counted", False)) == (1, counted)
    assert re.fullmatch(reason, first["reason"])
    assert "Restarting" in runs.events(name)
    assert len(trainings.names(name, "epochs")) == 2, "each gang took a number of its own"
    return status


def test_drained_pod_saves_the_step_that_it_was_at_and_counts_nothing(
    trainings: Trainings, undisturbed: dict[int, float]
) -> None:
    name, runs = trainings.start("drained"), trainings.place.runs
    wait_until(lambda: runs.status(name).get("lastCheckpoint"), "the checkpoint in the status", 240)
    [pod] = [p["metadata"]["name"] for p in runs.pods(name) if p["metadata"]["name"].startswith(f"{name}-train-1-1")]
    evict(runs, pod)
    status = restart(trainings, name, "EvictionByEvictionAPI|DisruptionTarget", counted=False)
    assert trainings.resumed_at(name) % EVERY_STEPS, "a checkpoint beside the regular ones: the step of the stop"
    assert status["lastCheckpoint"]["step"] == STEPS
    check_end(trainings, name, undisturbed)


WRONG_KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong"}


@pytest.mark.parametrize(
    ("name", "pods", "secret", "says"),
    [
        ("little-memory", {"shmSize": "16Mi"}, "s3-credentials", "/dev/shm of pod little-memory-train-1-"),
        ("wrong-keys", {}, "wrong-keys", "check rights and credentials"),
    ],
)
def test_place_that_cannot_train_fails_the_run_before_any_rank_starts(
    trainings: Trainings, name: str, pods: dict[str, Any], secret: str, says: str
) -> None:
    runs = trainings.place.runs
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}, "stringData": WRONG_KEYS}
    runs.kubectl.create(document, runs.namespace)
    trainings.start(name, secret=secret, **pods)
    status = runs.wait_for(name, "Failed", timeout_s=180)
    failed = condition(status, "Failed")
    assert (failed["reason"], stages(status)["train"]["attempt"]) == ("UserError", 1)
    assert says in failed["message"]
    assert trainings.names(name, "epochs") == []


def test_gang_with_a_pod_on_a_dead_node_resumes_elsewhere_and_counts_nothing(
    trainings: Trainings, undisturbed: dict[int, float], parts: Parts
) -> None:
    name = trainings.start("lost", affinity=APART)
    saved = trainings.wait_for_checkpoint(name)
    assert {trainings.node_of(name, index) for index in (0, 1)} == {"node-0", "node-1"}
    parts.lose_node(node_to_lose(trainings))
    status = trainings.place.runs.wait_for(name, "Complete", timeout_s=600)
    stage, first = stages(status)["train"], status["attempts"][0]
    assert (stage["attempt"], stage["restarts"], first["number"]) == (2, 1, 1)
    assert trainings.resumed_at(name) >= saved
    check_end(trainings, name, undisturbed)


def left_words(uid: str, node: int) -> Callable[[], str]:
    """What a container of a lost node left as its termination message: nobody reports it any more."""
    folder = CLUSTER / f"node-{node}" / "kubelet" / "pods" / uid / "containers" / "train"
    return lambda: "".join(path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize("nodes", [1, 2])
def test_zombie_of_a_lost_node_cannot_commit_once_the_next_attempt_has_begun(
    trainings: Trainings, parts: Parts, nodes: int
) -> None:
    number, runs = node_to_lose(trainings), trainings.place.runs
    where: dict[str, Any] = (
        {"affinity": APART} if nodes == 2 else {"nodeSelector": {"kubernetes.io/hostname": f"node-{number}"}}
    )
    name = trainings.start(f"zombie-{nodes}", nodes=nodes, steps=100 * STEPS, **where)
    saved = trainings.wait_for_checkpoint(name)
    [pod] = [pod for pod in runs.pods(name) if pod["spec"]["nodeName"] == f"node-{number}"]
    parts.lose_node(number, zombies=True)
    runs.patch(name, {"pods": {"nodeSelector": None}})
    wait_until(lambda: len(trainings.names(name, "epochs")) == 2, "the next attempt", 300)
    assert trainings.saved(name) > saved or nodes == 2, "the zombie trained on until then"
    words = wait_until(left_words(pod["metadata"]["uid"], number), "the zombie's end", 240)
    assert "attempt 2 has taken over" in words or nodes == 2, "alone it reports that; in a gang its peers end first"
    stage = stages(runs.status(name))["train"]
    assert (stage["restarts"], stage.get("restartsCountTowardsMax", 0)) == (1, 0)
    before = trainings.saved(name)
    wait_until(lambda: trainings.saved(name) > before, "a checkpoint of the attempt that took over", 240)
    assert trainings.resumed_at(name) >= saved
    runs.kubectl("delete", "dihtrun", name, "-n", runs.namespace)
