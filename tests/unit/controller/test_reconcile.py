"""Whole runs against a cluster in memory: what is created, what is saved, what a crash at any write changes
(nothing).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageState
from diht_k8s.controller.saved_status import condition, saved_run_status
from diht_k8s.kube.errors import ClusterError
from diht_k8s.pipeline.run_status import RunState
from tests.unit.controller.documents import NOW
from tests.unit.controller.fake import Process
from tests.unit.controller.stories import ONE, ORDER, SPEC, Clock, make, play, reason, settle, status


def test_nothing_is_written_when_nothing_has_changed() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    cluster.writes.clear()
    settle(process)
    Process(cluster, Clock()).reconcile()
    assert cluster.writes == []
    assert reason(cluster) == "Running"


def test_repeated_progress_writes_nothing_even_from_a_new_operator() -> None:
    cluster, clock = make(filter={"workers": 1}), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    cluster.logs["r-filter-1-0"] = Progress(stage=Stage.FILTER, step="captions", done=5, total=20).line()
    settle(process)
    clock.now += 10.5
    settle(process)
    read_at = clock.now
    cluster.writes.clear()
    for each in (process, Process(cluster, clock)):
        for _ in range(2):
            clock.now += 30
            each.reconcile()
    assert cluster.writes == []
    assert status(cluster).progress.last_updated_time == timestamp(read_at)  # type: ignore[union-attr]


def test_new_operator_reads_logs_little_by_little() -> None:
    cluster, clock = make(filter={"workers": 1}), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    progress = Progress(stage=Stage.FILTER, step="captions", done=5, total=20)
    cluster.logs["r-filter-1-0"] = progress.line()
    settle(process)
    cluster.writes.clear()
    cluster.logs["r-filter-1-0"] = progress.model_copy(update={"done": 6}).line()
    clock.now += 100
    process = Process(cluster, clock)
    wait_s = process.reconcile()
    assert (cluster.writes, wait_s) == ([], 10.0)
    clock.now += 10
    process.reconcile()
    assert cluster.writes == ["status r"]


def test_pods_that_start_one_by_one_are_counted_with_the_next_change_when_all_run_or_after_a_while() -> None:
    cluster, clock = make(filter={"workers": 4}), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    pods, cluster.pods = cluster.pods, {}
    seen = []
    for second, name in zip((0, 1, 12, 13), pods, strict=True):
        clock.now = NOW + second
        cluster.pods[name] = pods[name]
        cluster.writes.clear()
        wait_s = process.reconcile()
        assert wait_s is not None
        seen.append((len(cluster.writes), status(cluster).pods.ready, wait_s <= 10))  # type: ignore[union-attr]
    assert seen == [(1, 1, True), (0, 1, True), (1, 3, True), (1, 4, True)]


def test_status_is_written_before_the_job_is_created() -> None:
    cluster = make()
    Process(cluster, Clock()).reconcile()
    assert cluster.writes == ["status r", "create Job r-filter-1", "event"]


def test_gang_has_its_service_before_its_job_and_one_pod_steps_have_one_pod() -> None:
    cluster = make()
    play(cluster)
    assert list(cluster.services) == ["r-train-1"]
    sizes = {name: job["spec"]["parallelism"] for name, job in cluster.jobs.items()}
    assert sizes == dict(zip(ORDER, [2, 1, 1, 2, 2, 1], strict=True))
    words = [job["spec"]["template"]["spec"]["containers"][0]["args"] for job in cluster.jobs.values()]
    assert [args[-2:] for args in words if "--step" in args] == [
        ["--step", "vocabulary"],
        ["--step", "heads"],
        ["--step", "predict"],
    ]


def test_stale_view_never_writes_and_never_makes_a_job_twice() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    settle(process, 2)
    cluster.edit("r", suspend=True)  # the watch has not reported it yet
    cluster.end("r-filter-1", 0)
    for informer, documents in ((process.jobs, cluster.jobs), (process.pods, cluster.pods)):
        for document in documents.values():
            informer.put(document)
    with pytest.raises(ClusterError, match="modified"):
        process.reconciler.reconcile(("n", "r"))
    assert list(cluster.jobs) == ["r-filter-1"]


def test_job_that_the_informer_has_missed_is_recognised_as_ours() -> None:
    cluster = make()
    settle(Process(cluster, Clock()), 2)
    process = Process(cluster, Clock())
    process.sync()
    process.jobs.summaries.clear()
    process.reconciler.reconcile(("n", "r"))
    assert list(process.jobs.summaries) == [cluster.jobs["r-filter-1"]["metadata"]["uid"]]
    assert list(cluster.jobs) == ["r-filter-1"]


@pytest.mark.parametrize(
    ("owner", "kind", "expected"),
    [
        ([], "Accepted", "NameConflict"),
        ([{"kind": "Deployment", "name": "d", "uid": "d", "controller": True}], "Accepted", "NameConflict"),
        ([{"kind": "DihtRun", "name": "r", "uid": "older", "controller": True}], "Progressing", "Pending"),
    ],
)
def test_job_of_the_same_name_that_is_not_ours_is_left_alone(owner: list[Any], kind: str, expected: str) -> None:
    cluster = make()
    foreign = {"metadata": {"name": "r-filter-1", "ownerReferences": owner}}
    cluster.jobs["r-filter-1"] = foreign
    process = Process(cluster, Clock())
    jobs, cluster.jobs = cluster.jobs, {}
    process.sync()
    cluster.jobs = jobs
    for _ in range(3):
        process.reconciler.reconcile(("n", "r"))
    assert reason(cluster, kind) == expected
    assert cluster.jobs == {"r-filter-1": foreign}


def test_suspended_run_stops_and_resumes_with_the_next_attempt() -> None:
    cluster, clock = make(), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    cluster.edit("r", suspend=True)
    process.reconcile()
    assert reason(cluster) == "Checkpointing"
    settle(process)
    assert (reason(cluster), cluster.jobs) == ("Suspended", {})
    cluster.edit("r", suspend=False)
    settle(process)
    assert list(cluster.jobs) == ["r-filter-2"]
    assert status(cluster).restarts == 0


def test_failed_run_that_is_retried_has_all_its_restarts_and_new_names() -> None:
    cluster = make(failurePolicy={"maxRestarts": 0})
    play(cluster, {"r-filter-1": 75})
    failed = status(cluster)
    assert failed.completion_time is not None
    process = Process(cluster, Clock())
    process.reconcile()
    assert saved_run_status(status(cluster)).state is RunState.FAILED
    cluster.runs["r"]["metadata"]["annotations"] = {"diht.dev/retry": failed.completion_time}
    cluster.edit("r")
    settle(process)
    assert sorted(cluster.jobs) == ["r-filter-1", "r-filter-2"]
    cluster.end("r-filter-2", 75)
    settle(process)
    again = status(cluster)
    assert saved_run_status(again).state is RunState.FAILED
    assert condition(again, again.conditions[3].type) is not None


def test_run_that_is_resumed_while_a_finished_stages_job_is_being_deleted_starts_again() -> None:
    cluster, clock = make(), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.end("r-filter-1", 0)
    settle(process)
    cluster.run_pods("r-vocabulary-1")
    cluster.edit("r", suspend=True)
    settle(process)
    assert reason(cluster) == "Suspended"
    cluster.jobs["r-filter-1"]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    cluster.edit("r", suspend=False)
    process.reconcile()
    del cluster.jobs["r-filter-1"]
    settle(process)
    assert list(cluster.jobs) == ["r-vocabulary-2"]


def test_attempt_whose_pods_were_removed_shows_no_exit_code() -> None:
    cluster, clock = make(**ONE), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.end("r-filter-1", 1)
    cluster.pods = {}
    settle(process)
    found = status(cluster)
    assert (found.attempts[0].exit_code, found.stages[0].cause.exit_code) == (None, None)  # type: ignore[union-attr]
    assert found.attempts[0].reason == "PodRemoved"


def test_progress_is_read_from_the_log_whatever_else_it_holds() -> None:
    cluster, clock = make(filter={"workers": 1}), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    asked, tail = list[str](), cluster.log_tail
    cluster.log_tail = lambda namespace, pod, container, lines: (
        asked.append(pod) or tail(namespace, pod, container, lines)
    )  # type: ignore[func-returns-value,method-assign]
    process.reconcile()
    assert asked == [], "it has hardly begun"
    clock.now += 10.5
    good = Progress(
        stage=Stage.FILTER, step="\x1b[1mcaptions", done=5, total=20, per_second=2.5, metrics={"kept": float("nan")}
    )
    broken = '{"diht":"progress","stage":'
    older, other = good.model_copy(update={"done": 1}), good.model_copy(update={"stage": Stage.TRAIN, "done": 15})
    cluster.logs["r-filter-1-0"] = "\n".join(
        [older.line(), good.line(), other.line(), broken, "x" * 1_000_000, "\x1b[31mred", ""]
    )
    process.reconcile()
    progress = status(cluster).progress
    assert progress is not None
    assert (progress.percentage, progress.step, progress.samples_per_second) == (25, "captions", "2.5")
    cluster.writes.clear()
    cluster.logs["r-filter-1-0"] = good.model_copy(update={"done": 19}).line()
    process.reconcile()
    assert cluster.writes == [], "not read again within the interval"
    clock.now += 10.5
    process.reconcile()
    assert cluster.writes == ["status r"]


def test_cached_stage_is_recognised_by_its_log() -> None:
    cluster = make(**ONE)
    process = Process(cluster, Clock())
    settle(process)
    cluster.logs["r-filter-1-0"] = "filter: cached (s3://corpus/run/filter)\n"
    cluster.end("r-filter-1", 0)
    settle(process)
    assert status(cluster).stages[0].state is StageState.CACHED


def test_spec_that_the_operator_cannot_read_is_invalid() -> None:
    cluster = make()
    cluster.runs["r"]["spec"]["fromTheFuture"] = {}
    process = Process(cluster, Clock())
    process.reconcile()
    assert reason(cluster, "Accepted") == "InvalidSpec"
    assert cluster.jobs == {}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"train": {**SPEC["train"], "model": "ViT-B-61"}}, "spec.train.model: ViT-B-61 is not known to open_clip"),
        ({"data": {**SPEC["data"], "output": "runs/a"}}, "spec.data.output: runs/a is a relative path"),
    ],
)
def test_run_that_names_what_its_pods_cannot_have_is_not_accepted_and_starts_nothing(
    spec: dict[str, Any], says: str
) -> None:
    cluster = make(**spec)
    settle(Process(cluster, Clock()))
    assert (reason(cluster, "Accepted"), cluster.jobs) == ("InvalidSpec", {})
    assert says in next(each.message for each in status(cluster).conditions if each.type == "Accepted")


def test_run_that_has_begun_is_not_judged_by_what_it_names() -> None:
    cluster = make(**ONE)
    settle(Process(cluster, Clock()))
    cluster.runs["r"]["spec"]["filter"] = {"workers": 2, "decontaminate": ["unknown"]}
    settle(Process(cluster, Clock()))
    assert reason(cluster, "Accepted") == "Valid"


def test_events_record_each_change_once() -> None:
    cluster = make(**ONE)
    play(cluster, {"r-filter-1": 75})
    reported = [event["reason"] for event in cluster.recorded]
    assert reported == ["Started", "Restarting", "Started", "StageComplete", "Complete"]


def test_time_moves_only_with_the_status_of_a_condition() -> None:
    cluster, clock = make(), Clock()
    process = Process(cluster, clock)
    settle(process, 2)
    first = status(cluster).conditions[1].last_transition_time
    clock.now += 100
    cluster.run_pods("r-filter-1")
    process.reconcile()
    assert reason(cluster) == "Running"
    assert status(cluster).conditions[1].last_transition_time == first


@pytest.mark.parametrize(
    ("refused", "lost_write"),
    [
        ({"create Job": ClusterError(0, "Unreachable", "no answer")}, 0),
        ({"create Service": ClusterError(403, "Forbidden", "no")}, 2),
    ],
    ids=["no answer to an action", "status after the actions has a conflict"],
)
def test_change_is_told_once_though_the_reconciliation_that_wrote_it_fails(
    monkeypatch: pytest.MonkeyPatch, refused: dict[str, ClusterError], lost_write: int
) -> None:
    cluster = make(label=None, evaluate=None, train={**SPEC["train"], "distillation": {"mode": "Disabled"}})
    process, write, writes = Process(cluster, Clock()), cluster.write_status, itertools.count(1)

    def write_status(*arguments: Any) -> dict[str, Any]:
        if next(writes) == lost_write:
            raise ClusterError(409, "Conflict", "the object has been modified")
        return write(*arguments)

    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    cluster.end("r-filter-1", 0)
    cluster.recorded.clear()
    monkeypatch.setattr(cluster, "refuse", refused)
    monkeypatch.setattr(cluster, "write_status", write_status)
    with pytest.raises(ClusterError):
        process.reconcile()
    monkeypatch.undo()
    settle(process)
    assert [event["reason"] for event in cluster.recorded].count("StageComplete") == 1
    assert list(cluster.jobs) == ["r-filter-1", "r-train-1"]
