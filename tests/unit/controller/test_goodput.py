"""Goodput in the status: from Jobs, pods, logs and termination messages, kept over restarts of the operator."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest

from diht_k8s.api.reports import GOODPUT_VARIABLE, Cause, Progress, TimeSpent
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import Goodput, StageGoodput, Status
from diht_k8s.controller import metrics, run_metrics
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.job_builder import build_objects
from diht_k8s.controller.run_metrics import PARTS
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.pipeline.plan import Start
from diht_k8s.pipeline.run_status import FINAL
from tests.unit.controller.documents import NOW, at
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, make, settle, status, training


def line(spent: TimeSpent) -> str:
    return Progress(stage=Stage.TRAIN, step="steps", done=30, total=100, time_spent=spent).line()


def spent(steps: float, *, resumed: float = 0.0, kept: float = 0.0) -> TimeSpent:
    start_up = {"imports": 6.0, "firstBatch": 4.0}
    path = resumed + steps
    return TimeSpent(starting=10, steps=steps, data=2, resumed=resumed, path=path, kept=kept, start_up=start_up)


def admitted() -> tuple[FakeCluster, Process, Clock]:
    """A gang that was admitted after 20 s, got its node 5 s later and whose program began 3 s after that."""
    cluster, process, clock = training()
    admit(cluster, "r-train-1", NOW)
    clock.now += 100
    settle(process)
    return cluster, process, clock


def admit(cluster: FakeCluster, job: str, created: float) -> None:
    cluster.jobs[job]["metadata"]["creationTimestamp"] = at(created)
    cluster.jobs[job].setdefault("status", {})["startTime"] = at(created + 20)
    cluster.run_pods(job)
    for pod in (pod for name, pod in cluster.pods.items() if name.startswith(job)):
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(created + 25)}
        pod["status"]["conditions"].append(scheduled)
        pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": at(created + 28)}}
    cluster.version += 1
    cluster.jobs[job]["metadata"]["resourceVersion"] = str(cluster.version)


def read(cluster: FakeCluster, process: Process, clock: Clock, pod: str, text: str) -> None:
    cluster.logs[pod] = text
    clock.now += 11
    settle(process, 2)


def shown(cluster: FakeCluster) -> StageGoodput:
    found = next(stage for stage in status(cluster).stages if stage.name == "train").goodput
    assert found is not None
    return found


def seconds(found: Any) -> dict[str, int]:
    return {name: value for name in PARTS if (value := getattr(found, f"{name}_seconds"))}


def test_moments_of_job_and_pods_and_the_account_in_the_log_are_in_the_status() -> None:
    cluster, process, clock = admitted()
    assert seconds(shown(cluster)) == {"queued": 20, "scheduling": 5, "starting": 3}
    read(cluster, process, clock, "r-train-1-0", line(spent(60)))
    found = shown(cluster)
    assert seconds(found) == {"queued": 20, "scheduling": 5, "starting": 13, "productive": 60, "waiting_for_data": 2}
    assert (found.wall_seconds, found.productive_percent) == (100, "60.0")
    parts = {part.name: part.seconds for part in found.start_up}
    assert parts == {"pod": "3.0", "imports": "6.0", "firstBatch": "4.0"}
    whole = status(cluster).goodput
    assert whole is not None
    assert seconds(whole) == seconds(found)


def test_lost_work_and_the_time_until_the_next_attempt_count_though_another_operator_looks() -> None:
    cluster, process, clock = admitted()
    read(cluster, process, clock, "r-train-1-0", line(spent(60)))
    cause = Cause(exit_code=75, reason="RetryableError", message="m", time_spent=spent(70, kept=50))
    cluster.jobs["r-train-1"]["status"]["startTime"] = at(NOW + 20)
    cluster.end("r-train-1", 75, message=cause.encoded())
    cluster.jobs["r-train-1"]["status"] |= {"startTime": at(NOW + 20)}
    cluster.jobs["r-train-1"]["status"]["conditions"][0]["lastTransitionTime"] = at(NOW + 130)
    for index in range(2):
        pod = cluster.pods[f"r-train-1-{index}"]["status"]
        pod["conditions"].append({"type": "PodScheduled", "status": "True", "lastTransitionTime": at(NOW + 25)})
        pod["containerStatuses"][0]["state"]["terminated"]["startedAt"] = at(NOW + 28)
    process = Process(cluster, clock)
    settle(process)
    assert seconds(shown(cluster)) == {
        "queued": 20,
        "scheduling": 5,
        "starting": 13,
        "productive": 50,
        "lost": 20,
        "waiting_for_data": 2,
        "recovering": 20,
    }
    clock.now += 10
    settle(process)
    admit(cluster, "r-train-2", NOW + 140)
    process = Process(cluster, clock)
    settle(process)
    clock.now += 60
    read(cluster, process, clock, "r-train-2-0", line(spent(40, resumed=50, kept=50)))
    assert seconds(shown(cluster)) == {
        "queued": 40,
        "scheduling": 10,
        "starting": 26,
        "productive": 90,
        "lost": 20,
        "waiting_for_data": 4,
        "recovering": 30,
    }


@pytest.mark.parametrize(
    "sights",
    [[1], [2], [1, 2]],
    ids=["its pods still end", "its last pod has ended", "one after the other"],
)
@pytest.mark.parametrize(
    ("code", "kinds"), [(64, ["FailureTarget", "Failed"]), (0, ["SuccessCriteriaMet", "Complete"])]
)
def test_time_of_a_run_that_has_ended_does_not_depend_on_which_of_its_jobs_ends_was_seen(
    code: int, kinds: list[str], sights: list[int]
) -> None:
    cluster, process, clock = admitted()
    cluster.end("r-train-1", code, message=Cause(exit_code=code, reason="R", message="m").encoded())
    job = cluster.jobs["r-train-1"]
    ends = [
        {"type": kind, "status": "True", "reason": "x", "lastTransitionTime": at(NOW + 60 + later)}
        for later, kind in enumerate(kinds)
    ]
    for sight in sights:
        done = {"completionTime": at(NOW + 61)} if sight == 2 and not code else {}
        job["status"] = {"startTime": at(NOW + 20), "conditions": ends[:sight], **done}
        job["metadata"]["resourceVersion"] = str(int(job["metadata"]["resourceVersion"]) + 1000)
        clock.now += 1
        settle(process)
    assert saved_run_status(status(cluster)).state in FINAL
    assert shown(cluster).until == at(NOW + 60)


def test_line_of_pods_that_ran_before_a_queue_took_them_back_is_not_of_those_that_run_now() -> None:
    cluster, process, clock = admitted()
    read(cluster, process, clock, "r-train-1-0", line(spent(60)))
    wall = shown(cluster).wall_seconds
    cluster.jobs["r-train-1"]["status"]["startTime"] = at(NOW + 200)
    for index in range(2):
        pod = cluster.pods[f"r-train-1-{index}"]
        pod["metadata"]["uid"] += "-second"
        pod["metadata"]["resourceVersion"] = str(1000 + index)
        pod["status"]["conditions"][-1]["lastTransitionTime"] = at(NOW + 201)
        pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": at(NOW + 202)}}
    cluster.jobs["r-train-1"]["metadata"]["resourceVersion"] = "1002"
    clock.now += 1
    settle(process, 2)
    found = shown(cluster)
    assert found.wall_seconds == 202
    assert seconds(found)["queued"] == 20 + 200 - wall


def counts() -> dict[str, float]:
    return {part: metrics.STAGE_SECONDS.labels(part)._value.get() for part in PARTS}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the metric has grown by, by part."""
    monkeypatch.setattr(run_metrics, "_overcounted", Counter())
    before = counts()
    return lambda: {part: value - before[part] for part, value in counts().items() if value != before[part]}


def test_metric_counts_each_second_once(counted: Any) -> None:
    cluster, process, clock = admitted()
    read(cluster, process, clock, "r-train-1-0", line(spent(60)))
    settle(process)
    assert counted() == pytest.approx(seconds(shown(cluster)))


def test_metric_makes_up_for_work_that_turned_out_to_be_lost(counted: Any) -> None:
    story = [(60, 0), (40, 20), (45, 20), (90, 20)]
    for (productive, lost), after in itertools.pairwise([(0, 0), *story]):
        before, new = (
            Status(goodput=Goodput(productive_seconds=a, lost_seconds=b)) for a, b in ((productive, lost), after)
        )
        run_metrics.count_changes(before, new)
    assert counted() == {"productive": 90, "lost": 20}


def test_evaluation_is_told_what_the_time_of_the_stages_before_went_to() -> None:
    document = make().runs["r"]
    times = {"wallSeconds": 100, "productiveSeconds": 90, "productivePercent": "90.0", "startingSeconds": 10}
    stage = {"name": "train", "stage": "train", "state": "Complete", "attempt": 2, "goodput": times}
    known = cached_run({**document, "status": {"stages": [stage]}})
    run = DihtRun.model_validate({key: document[key] for key in ("apiVersion", "kind", "metadata", "spec")})

    def env(stage: Stage) -> dict[str, str]:
        *_, job = build_objects(known, run, Start(stage, 1, f"r-{stage}-1"))
        [container] = job["spec"]["template"]["spec"]["containers"]
        return {each["name"]: each.get("value", "") for each in container["env"]}

    [told] = json.loads(env(Stage.EVALUATE)[GOODPUT_VARIABLE])
    assert told == {
        "stage": "train",
        "wall_seconds": 100,
        "text": "90.0 % productive; 10.0 % starting in 2 attempts",
    }
    assert GOODPUT_VARIABLE not in env(Stage.TRAIN)
