"""What the tests of reconciliation share: a run, a clock, and ways to play it against a cluster in memory."""

from __future__ import annotations

import copy
from typing import Any

from diht_k8s.api.reports import Cause
from diht_k8s.api.status import Status
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.pipeline.run_status import RunState
from tests.unit.controller.documents import NOW
from tests.unit.controller.fake import Dead, FakeCluster, Process

SPEC: dict[str, Any] = {
    "data": {"sources": [{"name": "web", "shards": ["s3://corpus/{0..9}.tar"]}], "output": "s3://corpus/run"},
    "filter": {"workers": 2},
    "label": {"workers": 2},
    "train": {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "numNodes": 2},
    "evaluate": {"benchmarks": [{"name": "b", "type": "Retrieval", "shards": ["s3://corpus/b.tar"]}]},
    "pods": {"image": "recipe:1"},
}
ONE = {"label": None, "train": None, "evaluate": None}
ORDER = ["r-filter-1", "r-vocabulary-1", "r-heads-1", "r-predict-1", "r-train-1", "r-evaluate-1"]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def make(**spec: Any) -> FakeCluster:
    cluster = FakeCluster()
    merged = copy.deepcopy({key: value for key, value in {**SPEC, **spec}.items() if value is not None})
    cluster.add_run({"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "r"}, "spec": merged})
    return cluster


def status(cluster: FakeCluster) -> Status:
    return Status.model_validate(cluster.runs["r"].get("status") or {})


def reason(cluster: FakeCluster, kind: str = "Progressing") -> str:
    found = next(each for each in status(cluster).conditions if each.type == kind)
    return found.reason.value


def settle(process: Process, times: int = 4) -> None:
    for _ in range(times):
        process.reconcile()


def play(cluster: FakeCluster, ends: dict[str, int] | None = None, *, die_after: int | None = None) -> list[str]:
    """Run to the end; each Job ends with its code (0 if none is given). The operator dies at each `die_after`-th
    write.
    """
    clock, ends = Clock(), dict(ends or {})
    process, done = Process(cluster, clock), set[str]()
    for _ in range(400):
        cluster.writes.clear()
        cluster.die_after = die_after
        try:
            process.reconcile()
        except Dead:
            process = Process(cluster, clock)
            continue
        if saved_run_status(status(cluster)).state is not RunState.RUNNING:
            return sorted(cluster.jobs)
        for name in [name for name in cluster.jobs if name not in done]:
            cluster.end(name, ends.get(name, 0), message=Cause(exit_code=1, reason="R", message="m").encoded())
            done.add(name)
        clock.now += 1.0
    raise AssertionError("the run does not end")


def training() -> tuple[FakeCluster, Process, Clock]:
    """A gang that runs, and whose log is read next."""
    cluster, process, clock = gang()
    process.reconcile()
    clock.now += 10.5
    return cluster, process, clock


def gang() -> tuple[FakeCluster, Process, Clock]:
    """A gang whose pods run, of which the operator has not heard yet."""
    cluster, clock = make(filter=None, label=None, evaluate=None), Clock()
    cluster.runs["r"]["spec"]["train"]["distillation"] = {"mode": "Disabled"}
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-train-1")
    return cluster, process, clock
