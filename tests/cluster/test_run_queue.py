"""`pods.queueing: PerRun` under a real Kueue: the order of runs, through crashes and preemptions too, no quota left
behind; partial admission.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.operators import World, evict, kill_program, stages, world
from tests.cluster.queues import OneAtATime
from tests.cluster.tools import PATIENCE, PROJECT, Kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
POLICY = {"maxRestarts": 20, "maxInfrastructureRestarts": 100}
SHARDS, PAIRS = 4, 8
"""Of a filter, and in each of them: every worker has something to do."""


def running(place: World, queue: OneAtATime, name: str, starts: int) -> str:
    """The pod of a run once its program has started that many times."""
    place.runs.wait_begun(name, "train", starts)
    [pod] = wait_until(
        lambda: [each for each in place.runs.pods(name) if each["status"]["phase"] == "Running"], f"the pod of {name}"
    )
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
    """The first of three runs crashes and is preempted in turn, comes back each time, and only then gives way to the
    others.
    """
    for name in ("first", "second", "third"):
        ends = ["hang"] * (times + 1) if name == "first" else []
        queue.start(
            name, *ends, "ok", failurePolicy=POLICY, activeDeadlineSeconds=600 if name == "first" else 30 * PATIENCE
        )
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


def test_run_of_a_higher_priority_is_admitted_before_an_older_one(
    kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:
        queue = OneAtATime(kubectl, place.runs, preemption="Never")
        for name, ends, pods in (
            ("busy", ["hang"], {}),
            ("low", [], {}),
            ("high", [], {"queuePriorityClass": "urgent"}),
        ):
            queue.start(name, *ends, "ok", pods=pods)
            wait_until(lambda: queue.workload(f"{name}-train"), f"the Workload of {name}", 60)  # noqa: B023 (called at once)
        pod = running(place, queue, "busy", 1)
        waiting = [queue.conditions(f"{name}-train").get("Admitted") for name in ("low", "high")]
        assert "True" not in waiting, "busy has the quota"
        kill_program(host(pod))
        for name in ("busy", "high", "low"):
            place.runs.wait_for(name, "Complete", timeout_s=180)
        since = {name: queue.conditions(f"{name}-train", "lastTransitionTime") for name in ("busy", "high", "low")}
        assert since["high"]["Admitted"] >= since["busy"]["Finished"]
        assert since["low"]["Admitted"] >= since["high"]["Finished"], "the older one came first"


@pytest.fixture
def few(kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    """A place whose output has shards of a few pairs of the example."""
    with world(kubectl, recipe_image, tmp_path) as place:
        folder = place.runs.folder / "shards"
        folder.mkdir()
        for number in range(SHARDS):
            with (
                tarfile.open(PROJECT / f"examples/data/train/{number:05}.tar.gz") as whole,
                tarfile.open(folder / f"{number}.tar", "w") as part,
            ):
                for member in itertools.islice(whole, 2 * PAIRS):
                    part.addfile(member, whole.extractfile(member))
        yield place


def test_filter_runs_with_the_workers_that_the_quota_has_room_for(kueue: None, few: World) -> None:
    """A real one of four workers; with PerAttempt, the two that run are not told that the others are missing."""
    queue, told, results = OneAtATime(few.kubectl, few.runs), {"PerRun": "2", "PerAttempt": "4"}, set[str]()
    rules = {"minActions": 0, "textSpotting": {"mode": "Disabled"}, "workers": 4}
    for queueing in told:
        data = {
            "sources": [{"name": "web", "shards": ["/output/shards/*.tar"]}],
            "output": f"file:///output/{queueing}",
        }
        pods = {"queueing": queueing, "minWorkers": 2, "resources": {"cpu": "500m"}, "env": []}
        queue.start(queueing.lower(), train=None, filter=rules, data=data, pods=pods)
    for queueing, workers in told.items():
        few.runs.wait_for(queueing.lower(), "Complete", timeout_s=400)
        job = few.kubectl.json("get", "job", f"{queueing.lower()}-filter-1", "--namespace", few.namespace)["spec"]
        assert (job["parallelism"], job["completions"]) == (2, 2)
        assert {"name": "DIHT_WORKERS", "value": workers} in job["template"]["spec"]["containers"][0]["env"]
        committed = json.loads((few.runs.folder / queueing / "runs/latest/filter/COMMITTED.json").read_text())
        assert committed["summary"]["counts"]["input"] == SHARDS * PAIRS
        results.add(committed["output_sha256"])
    assert len(results) == 1, "the same output"
