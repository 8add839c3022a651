"""A real training of three pods that loses a place: it goes on with two, and with three again, by new attempts or in
place.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.cluster.operators import evict, offer, slots, stages, why
from tests.cluster.tools import Parts, wait_until
from tests.cluster.trainings import STEPS, Trainings, node_to_lose

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive, pytest.mark.slow, pytest.mark.timeout(1500)]
SLOT = "example.org/place"
WISHED, FEWEST = 3, 2
LONG = 4 * STEPS
"""Long enough to be interrupted twice."""


def start(trainings: Trainings, name: str, *, steps: int, max_restarts: int = 0) -> str:
    return trainings.start(
        name,
        nodes=WISHED,
        steps=steps,
        train={"minNodes": FEWEST},
        resources={SLOT: 1},
        policy={"maxRestarts": max_restarts, "elasticAfterSeconds": 10},
    )


def pods_on(trainings: Trainings, name: str, number: int) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in trainings.place.runs.pods(name)
        if pod["spec"].get("nodeName") == f"node-{number}"
    ]


def wait_for_two(trainings: Trainings, name: str, timeout_s: float) -> dict[str, Any]:
    """Wait until the training runs on two nodes; its stage in the status."""

    def found() -> dict[str, Any] | None:
        stage = stages(trainings.place.runs.status(name))["train"]
        return stage if (stage["attempt"], stage.get("nodes")) == (3, FEWEST) else None

    stage = wait_until(found, "an attempt of two nodes", timeout_s)
    assert (stage["wishedNodes"], stage["restarts"]) == (WISHED, 1), "the loss counts, the resizing does not"
    return stage


def check_losses(trainings: Trainings, name: str, whole: str, steps: int) -> None:
    """The same losses as without an interruption, up to rounding: the number of processes differs."""
    found, expected = trainings.losses(name), trainings.losses(whole)
    assert max(found) == max(expected) == steps
    both = found.keys() & expected.keys()
    assert {step: found[step] for step in both} == pytest.approx({step: expected[step] for step in both}, abs=1e-4)


def test_training_shrinks_where_a_place_is_gone_and_is_whole_again_after_the_next_interruption(
    trainings: Trainings,
) -> None:
    runs, kubectl = trainings.place.runs, trainings.place.kubectl
    with slots(kubectl, SLOT, (2, 1)):
        trainings.start("rigid", nodes=WISHED, steps=LONG, resources={SLOT: 1})
        runs.wait_for("rigid", "Complete", timeout_s=500)
        name = start(trainings, "shrinks", steps=LONG)
        saved = trainings.wait_for_checkpoint(name)
        [pod] = pods_on(trainings, name, 1)
        offer(kubectl, SLOT, 1, "0")
        evict(runs, pod)
        wait_for_two(trainings, name, 240)
        assert "Resized" in runs.events(name)
        assert "train: on 2 of 3 nodes" in why(runs, name)
        saved = wait_until(lambda: (now := trainings.saved(name)) > saved and now, "a checkpoint of the two", 240)
        offer(kubectl, SLOT, 1, "1")
        evict(runs, pods_on(trainings, name, 0)[0])
        status = runs.wait_for(name, "Complete", timeout_s=900)
    stage = stages(status)["train"]
    assert (stage["attempt"], stage["restarts"], stage.get("restartsCountTowardsMax", 0)) == (4, 2, 0)
    assert [(each["number"], each["reason"]) for each in status["attempts"]][1] == (2, "Resized")
    newest = [pod for pod in runs.pods(name) if pod["metadata"]["labels"]["diht.dev/attempt"] == "4"]
    assert len(newest) == WISHED
    assert trainings.resumed_at(name, attempt=4) >= saved
    check_losses(trainings, name, "rigid", LONG)


def test_training_that_lost_a_node_for_good_completes_on_the_others(trainings: Trainings, parts: Parts) -> None:
    gone = node_to_lose(trainings)
    amounts = (1, 2) if gone == 0 else (2, 1)
    with slots(trainings.place.kubectl, SLOT, amounts):
        trainings.start("all", nodes=WISHED, resources={SLOT: 1})
        trainings.place.runs.wait_for("all", "Complete", timeout_s=300)
        name = start(
            trainings, "loses", steps=STEPS, max_restarts=3
        )  # its peers end with 75 before the node is known lost
        saved = trainings.wait_for_checkpoint(name)
        parts.lose_node(gone)
        wait_for_two(trainings, name, 600)
        assert "train: on 2 of 3 nodes since" in (told := why(trainings.place.runs, name))
        assert "no other node had room" in told, "its peers ended before the node was known lost"
        status = trainings.place.runs.wait_for(name, "Complete", timeout_s=600)
    assert stages(status)["train"]["attempt"] == 3
    assert trainings.resumed_at(name, attempt=3) >= saved
    check_losses(trainings, name, "all", STEPS)


IN_PLACE = {
    "restart": "InPlace",
    "maxRestarts": 0,
    "maxInfrastructureRestarts": 0,
    "elasticAfterSeconds": 10,
    "elasticEverySeconds": 10,
}


def start_in_place(trainings: Trainings, name: str, gone: int, *, steps: int) -> None:
    """Two pods on one node, among them the first one, which the Job controller makes first, and the third on the
    other.
    """
    offer(trainings.place.kubectl, SLOT, gone, "0")
    trainings.start(name, nodes=WISHED, steps=steps, train={"minNodes": FEWEST}, resources={SLOT: 1}, policy=IN_PLACE)
    wait_until(lambda: len(pods_on(trainings, name, 1 - gone)) == FEWEST, "two pods", 60)
    offer(trainings.place.kubectl, SLOT, gone, "1")
    wait_until(lambda: pods_on(trainings, name, gone), "the third pod", 60)


def wait_for_size(trainings: Trainings, name: str, nodes: int, rounds: int, timeout_s: float) -> float:
    """Wait until the training goes on with this many nodes in its first attempt, in whose pods it has resumed this
    often; when it has.
    """

    def sized() -> bool:
        stage = stages(trainings.place.runs.status(name))["train"]
        assert (stage["attempt"], stage.get("restarts", 0)) == (1, 0)
        return stage.get("nodes") == nodes

    wait_until(sized, f"{nodes} nodes", timeout_s)
    wait_until(lambda: len(resumptions(trainings, name)) == rounds, "a round of them", 120)
    resumed = time.monotonic()
    step = resumptions(trainings, name)[-1]
    wait_until(lambda: trainings.saved(name) > step, "a checkpoint of theirs", 180)
    return resumed


def resumptions(trainings: Trainings, name: str) -> list[int]:
    selector = f"diht.dev/run={name},diht.dev/attempt=1,batch.kubernetes.io/job-completion-index=0"
    log = trainings.place.runs.kubectl("logs", "-n", trainings.place.namespace, "-l", selector, "--tail=-1")
    return [int(step) for step in re.findall(r"train: resuming after step (\d+) of", log)]


@pytest.mark.parametrize("zombies", [False, True], ids=["its pods end", "its pods live on"])
def test_training_shrinks_and_grows_in_its_living_pods_as_a_node_is_lost_and_returns(
    trainings: Trainings, parts: Parts, zombies: bool
) -> None:
    runs, kubectl, gone = trainings.place.runs, trainings.place.kubectl, node_to_lose(trainings)
    name = "zombies" if zombies else "returns"
    with slots(kubectl, SLOT, (1, 2) if gone == 0 else (2, 1)):
        start_in_place(trainings, name, gone, steps=100 * STEPS)
        trainings.wait_for_checkpoint(name)
        lost, [pod] = time.monotonic(), pods_on(trainings, name, gone)
        parts.lose_node(gone, zombies=zombies)
        smaller = wait_for_size(trainings, name, FEWEST, 1, 240)
        told = why(runs, name)
        assert f"train: on {FEWEST} of {WISHED} nodes since" in told, told
        parts.restore()
        offer(kubectl, SLOT, gone, "1")
        returned = time.monotonic()
        grown = wait_for_size(trainings, name, WISHED, 2, 240)
        stage, resumed, events = stages(runs.status(name))["train"], resumptions(trainings, name), runs.events(name)
        if not zombies:  # one that lives on is taken in again if its node is back before it was replaced
            assert pod not in [each["metadata"]["name"] for each in runs.pods(name)]
        found = trainings.losses(name)
        kubectl("delete", "dihtrun", "-n", trainings.place.namespace, name)
        trainings.start(f"{name}-alone", nodes=1, steps=max(found))
        runs.wait_for(f"{name}-alone", "Complete", timeout_s=600)
    print(
        f"{smaller - lost:.0f} s from the loss to steps of two, {grown - returned:.0f} s from the return to steps "
        f"of three"
    )
    assert (stage["attempt"], stage.get("restarts", 0), "restartsInPlace" in stage) == (1, 0, False)
    assert events.count("Resized") == 2
    assert len(resumed) == 2, "one round of two nodes and one of three"
    expected = trainings.losses(f"{name}-alone")
    both = found.keys() & expected.keys()
    assert max(both) > resumed[-1]
    assert {step: found[step] for step in both} == pytest.approx({step: expected[step] for step in both}, abs=1e-4)
