"""Kueue in memory: it admits Workloads of a FakeCluster up to a quota, by priority and creation, and evicts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.unit.controller.documents import NOW, at
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import SPEC, Clock, make, settle

FLAVOUR = {"spec": {"nodeLabels": {"pool": "a100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}}


@dataclass
class Kueue:
    """A queue with room for some Workloads, or for some pods."""

    cluster: FakeCluster
    quota: int = 1
    count: int | None = None
    """pods that it admits a Workload with; None: all."""
    nodes: int | None = None
    """pods that it has room for; None: it counts Workloads."""
    clock: Callable[[], float] = lambda: NOW

    def __post_init__(self) -> None:
        self.cluster.others["ResourceFlavor"] = {"gpus": FLAVOUR}
        self.cluster.others.setdefault("Workload", {})

    @property
    def workloads(self) -> dict[str, dict[str, Any]]:
        return self.cluster.others["Workload"]

    def conditions(self, name: str) -> dict[str, str]:
        found = (self.workloads[name].get("status") or {}).get("conditions") or ()
        return {each["type"]: each["status"] for each in found}

    def admit(self) -> None:
        """Admit what there is quota for, those of a higher priority first."""
        held = [name for name in self.workloads if self.conditions(name).get("QuotaReserved") == "True"]
        waiting = [
            name for name in self.workloads if name not in held and self.conditions(name).get("Finished") != "True"
        ]
        for name in sorted(waiting, key=lambda name: -self.workloads[name]["spec"]["priority"]):
            (pods,) = self.workloads[name]["spec"]["podSets"]
            most = pods["count"] if self.nodes is None else min(pods["count"], self.nodes - self.held_nodes)
            room = self.quota > self._held() if self.nodes is None else most >= pods.get("minCount", pods["count"])
            if not room:
                if self.conditions(name).get("QuotaReserved") != "False":
                    self.write(name, QuotaReserved="False")
                continue
            assignment: dict[str, Any] = {"name": "main", "flavors": {"cpu": "gpus", "memory": "gpus"}}
            assignment["count"] = self.count or most
            self.write(name, QuotaReserved="True", Admitted="True", Evicted="False")
            self.workloads[name]["status"]["admission"] = {"podSetAssignments": [assignment]}

    def _held(self) -> int:
        found = [self.conditions(name) for name in self.workloads]
        return sum(each.get("QuotaReserved") == "True" and each.get("Finished") != "True" for each in found)

    @property
    def held_nodes(self) -> int:
        """Pods of the Workloads that hold quota."""
        held = [name for name in self.workloads if self.conditions(name).get("QuotaReserved") == "True"]
        living = [self.workloads[name] for name in held if self.conditions(name).get("Finished") != "True"]
        return sum(each["status"]["admission"]["podSetAssignments"][0]["count"] for each in living)

    def take_back(self, nodes: int) -> None:
        """Have room for `nodes` pods only: what has the least priority is evicted until these are enough."""
        self.nodes = nodes
        order = sorted(self.workloads, key=lambda name: self.workloads[name]["spec"]["priority"])
        left = self.held_nodes
        for name in order:
            found = self.conditions(name)
            if left > nodes and found.get("QuotaReserved") == "True" and found.get("Finished") != "True":
                left -= self.workloads[name]["status"]["admission"]["podSetAssignments"][0]["count"]
                if found.get("Evicted") != "True":
                    self.evict(name)

    def evict(self, name: str, reason: str = "Preempted") -> None:
        self.write(name, reason=reason, Evicted="True")

    def write(self, name: str, reason: str = "r", **conditions: str) -> None:
        self.cluster.version += 1
        document = self.workloads[name]
        document["metadata"]["resourceVersion"] = str(self.cluster.version)
        status = document.setdefault("status", {})
        kept = {each["type"]: each for each in status.get("conditions") or ()}
        for kind, value in conditions.items():
            kept[kind] = {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": "no quota",
                "lastTransitionTime": at(self.clock()),
            }
        status["conditions"] = list(kept.values())


PODS = {"image": "recipe:1", "queueName": "gpus", "queueing": "PerRun", "resources": {"cpu": "1"}}
TRAIN = {**SPEC["train"], "distillation": {"mode": "Disabled"}}
ONE: dict[str, Any] = {"filter": None, "label": None, "evaluate": None, "train": TRAIN, "pods": PODS}


def world(quota: int = 1, **spec: Any) -> tuple[FakeCluster, Kueue, Process, Clock]:
    cluster, clock = make(**{**ONE, **spec}), Clock()
    return cluster, Kueue(cluster, quota), Process(cluster, clock), clock


def admitted(**spec: Any) -> tuple[FakeCluster, Kueue, Process, Clock]:
    """A training whose pods run."""
    cluster, kueue, process, clock = world(**spec)
    settle(process)
    kueue.admit()
    settle(process)
    cluster.run_pods("r-train-1")
    settle(process)
    return cluster, kueue, process, clock
