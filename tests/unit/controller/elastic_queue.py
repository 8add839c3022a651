"""An elastic training in a queue, as a test plays it."""

from __future__ import annotations

from typing import Any

from diht_k8s.api.reports import Progress, TimeSpent
from diht_k8s.api.run import Stage
from tests.unit.controller.documents import at
from tests.unit.controller.fake import Process
from tests.unit.controller.kueue import PODS, Kueue
from tests.unit.controller.stories import SPEC, Clock, make, settle

TRAIN: dict[str, Any] = {**SPEC["train"], "distillation": {"mode": "Disabled"}, "numNodes": 4, "minNodes": 2}


EXTRA = "r-train-extra"


EVERY_S = 600


class Queued:
    """An elastic training in a queue that has room for some pods."""

    def __init__(self, nodes: int, **spec: Any) -> None:
        self.cluster, self.clock = (
            make(filter=None, label=None, evaluate=None, **{"train": TRAIN, "pods": PODS, **spec}),
            Clock(),
        )
        self.cluster.clock = self.clock
        self.kueue = Kueue(self.cluster, nodes=nodes, clock=self.clock)
        self.process = Process(self.cluster, self.clock)

    def settle(self) -> None:
        """Kueue and the operator do what is to be done."""
        for _ in range(4):
            self.kueue.admit()
            settle(self.process, 2)

    def wait(self, seconds: float) -> None:
        """The same after some time; a program says that it needs four hours more, and that its start took ten
        seconds.
        """
        self.clock.now += seconds
        for name in self.cluster.pods:
            self.cluster.logs[name] = said(4 * 3600)
        self.settle()

    def start(self, name: str) -> None:
        """All pods of a Job run."""
        self.cluster.run_pods(name)
        for index in range(self.size(name)):
            found = self.cluster.pods[f"{name}-{index}"]["status"]
            found["containerStatuses"][0]["state"] = {"running": {"startedAt": at(self.clock.now)}}
            found["conditions"].append(
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(self.clock.now)}
            )
        self.cluster.jobs[name].setdefault("status", {})["startTime"] = at(self.clock.now)
        self.settle()

    def size(self, name: str) -> int:
        return self.cluster.jobs[name]["spec"]["parallelism"]

    @property
    def jobs(self) -> dict[str, int]:
        return {name: self.size(name) for name in self.cluster.jobs}

    def told(self, reason: str) -> list[str]:
        return [each["message"] for each in self.cluster.recorded if each["reason"] == reason]


def said(left_s: int, start_s: float = 10.0) -> str:
    """A program's line of progress."""
    spent = TimeSpent(starting=start_s, steps=5.0)
    return Progress(stage=Stage.TRAIN, step="epoch 1", done=1, total=9, eta_seconds=left_s, time_spent=spent).line()


def whole(**spec: Any) -> Queued:
    """One that trains on all four nodes."""
    queued = Queued(4, **spec)
    queued.settle()
    queued.start("r-train-1")
    return queued
