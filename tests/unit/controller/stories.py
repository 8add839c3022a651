"""What the tests of reconciliation share: a run, a clock, and ways to play it against a cluster in memory."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
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


def play(
    cluster: FakeCluster,
    ends: dict[str, int | tuple[int, str]] | None = None,
    *,
    die_after: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run to the end; each Job ends with its code (0 if none is given) and message. The operator dies at each
    `die_after`-th write. `meanwhile` is what others do after each pass.
    """
    clock, said = Clock(), Cause(exit_code=1, reason="R", message="m").encoded()
    process, done = Process(cluster, clock), set[str]()
    for _ in range(600):
        cluster.writes.clear()
        cluster.die_after = die_after
        try:
            process.reconcile()
        except Dead:
            process = Process(cluster, clock)
            continue
        if saved_run_status(status(cluster)).state is not RunState.RUNNING:
            return sorted(cluster.jobs)
        meanwhile()
        for name in cluster.jobs.keys() - done:
            end = (ends or {}).get(name, 0)
            code, message = (end, said) if isinstance(end, int) else end
            cluster.end(name, code, message=message)
            done.add(name)
        clock.now += 1.0
    raise AssertionError("the run does not end")


def live_until_a_write(cluster: FakeCluster, clock: Clock, die_after: int | None) -> list[str]:
    """A new operator works until it dies at one of its writes, or has nothing more to do; its writes."""
    cluster.writes.clear()
    cluster.die_after = die_after
    process = Process(cluster, clock)
    with contextlib.suppress(Dead):
        settle(process)
        clock.now += 60  # a new operator begins to wait again
        settle(process)
    return list(cluster.writes)


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
