"""`pods.queueing: PerRun` under a real Kueue: a run keeps its place through crashes and preemptions, and no quota is left behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.operators import World, evict, kill_program, stages, world
from tests.cluster.queues import OneAtATime
from tests.cluster.tools import Kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
POLICY = {"maxRestarts": 20, "maxInfrastructureRestarts": 100}


def running(place: World, queue: OneAtATime, name: str, starts: int) -> str:
    """The pod of a run once its program has started that many times."""
    attempts = place.runs.folder / name / "attempts-train-0"
    wait_until(lambda: attempts.exists() and len(attempts.read_bytes()) == starts, f"start {starts} of {name}", 120)
    (pod,) = [each for each in place.runs.pods(name) if each["status"]["phase"] == "Running"]
    assert queue.admitted(f"{name}-train")
    assert pod["spec"]["nodeSelector"]["kubernetes.io/os"] == "linux"
    return pod["metadata"]["name"]


def crash(place: World, pod: str, number: int) -> None:
    """The program dies, or its pod is drained."""
    kill_program(host(pod)) if number % 3 == 0 else evict(place.runs, pod)


def host(pod: str) -> str:
    """The host name of an indexed Job's pod."""
    return pod.rpartition("-")[0]


def endure(place: World, queue: OneAtATime, times: int) -> None:
    """The first of three runs crashes and is preempted in turn, comes back each time, and only then gives way to the others."""
    for name in ("first", "second", "third"):
        ends = ["hang"] * (times + 1) if name == "first" else []
        queue.start(name, *ends, "ok", failurePolicy=POLICY, activeDeadlineSeconds=600 if name == "first" else 30)
        wait_until(lambda: queue.workload(f"{name}-train"), f"the Workload of {name}", 30)  # noqa: B023 (called at once)
        time.sleep(1.1)  # Kueue orders by creation in whole seconds, and those of one second by UID
    uid = queue.workload("first-train")["metadata"]["uid"]
    for number in range(times):
        pod = running(place, queue, "first", number + 1)
        if number % 2:
            queue.preempt("first")
        else:
            crash(place, pod, number)
        for other in ("second-train", "third-train"):
            assert "Admitted" not in queue.conditions(other) or not queue.admitted(other), (
                f"{other} came before its turn"
            )
    kill_program(host(running(place, queue, "first", times + 1)))
    for name in ("first", "second", "third"):
        place.runs.wait_for(name, "Complete", timeout_s=180)
    assert queue.workload("first-train")["metadata"]["uid"] == uid, "one Workload for all attempts"
    ends = [place.runs.status(name)["completionTime"] for name in ("first", "second", "third")]
    assert ends == sorted(ends), "order of creation"
    restarts = stages(place.runs.status("first"))["train"]["restarts"]
    assert restarts == times - times // 2 + 1, "a preemption is no restart"
    wait_until(lambda: queue.reserved() == {"reserving": 0, "admitted": 0, "cpu": "0"}, "no quota in use", 30)


def test_run_that_crashes_and_is_preempted_keeps_its_place_before_later_ones(
    kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:
        endure(place, OneAtATime(kubectl, place.runs), 2)


@pytest.mark.slow
def test_twenty_crashes_and_preemptions_in_a_row_change_no_order_and_leak_no_quota(
    kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:
        endure(place, OneAtATime(kubectl, place.runs), 20)
