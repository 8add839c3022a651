"""Faults of a soak: how each is brought about, and what `diht status` has to say of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.operators import Runs, condition, evict, kill_program, stages
from tests.cluster.tools import KubectlError, Parts, script, wait_until

Status = dict[str, Any]
WORKER, GANG_OF_TWO = ("filter",), ("train",)
STAGES = ("filter", "label", "train", "evaluate")
GANG = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "numNodes": 2, "distillation": {"mode": "Disabled"}}


@dataclass(frozen=True)
class Victim:
    """One run that a fault is done to."""

    runs: Runs
    name: str
    stage: str

    def pod(self) -> dict[str, Any]:
        """Its first pod that runs."""
        pods = self.runs.pods(self.name)
        return next(each for each in pods if each["status"]["phase"] == "Running")

    def job(self) -> str:
        """The name of its first attempt's Job."""
        return f"{self.name}-{self.stage}-1"

    def runs_on(self) -> bool:
        """Whether its program has saved a step and all its pods run."""
        pods = self.runs.pods(self.name)
        step = self.runs.folder / self.name / self.stage / "step"
        return step.exists() and bool(pods) and all(each["status"]["phase"] == "Running" for each in pods)


def failed_once(status: Status) -> bool:
    """Whether an attempt's end is in the status."""
    ended = condition(status, "Failed").get("status") == "True"
    return ended or any(stage.get("restarts", 0) for stage in stages(status).values())


def reason(wanted: str) -> Callable[[Status], bool]:
    return lambda status: condition(status, "Progressing").get("reason") == wanted


def failed(status: Status) -> bool:
    return condition(status, "Failed").get("status") == "True"


def nothing(victim: Victim) -> str | None:
    return None


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    says: str
    """a pattern of what `why` must print; {found} is what the act returned"""
    stub: tuple[str | int, ...] = ("hang", "hang")
    act: Callable[[Victim], str | None] = nothing
    """done once the program runs, if `waits`"""
    shown: Callable[[Status], bool] = failed_once
    """whether the status can be expected to tell"""
    spec: Mapping[str, Any] = field(default_factory=dict)
    pods: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = True
    stages: tuple[str, ...] = ("filter", "train")
    """which stages it may hit: one worker, or one pod of a gang of two"""
    timeout_s: float = 120.0
    weight: int = 3

    def document(self, runs: Runs, name: str, stage: str) -> dict[str, Any]:
        """The run that it is done to."""
        spec: dict[str, Any] = {other: None for other in STAGES if other != stage}
        if stage == "train":
            spec["train"] = GANG
        stub = {stage: list(self.stub)}
        common = runs.document(name, stub)["spec"]["pods"]  # the stub is one of its variables
        lists = {key: [*common[key], *self.pods.get(key, [])] for key in ("volumes", "volumeMounts")}
        pods = {**common, "nodeSelector": {"kubernetes.io/hostname": "node-0"}, **self.pods, **lists}
        return runs.document(name, stub, **{**spec, **self.spec}, pods=pods)

    def is_told(self, text: str, found: str | None) -> bool:
        """Whether `why` names the cause."""
        return re.search(self.says.replace("{found}", re.escape(found or "")), text) is not None


def kill(victim: Victim) -> None:
    kill_program(f"{victim.job()}-0")


def evict_pod(victim: Victim) -> str:
    pod = victim.pod()
    evict(victim.runs, pod["metadata"]["name"])
    return pod["spec"]["nodeName"]


def replace_worker(victim: Victim) -> None:
    """Evict a worker; a stage goes on without it until another has started."""
    old = victim.pod()["metadata"]["uid"]
    evict_pod(victim)

    def is_replaced() -> bool:
        pods = victim.runs.pods(victim.name)
        return any(each["status"]["phase"] == "Running" and each["metadata"]["uid"] != old for each in pods)

    wait_until(is_replaced, "another worker", 90)


def drain(victim: Victim) -> str:
    node = victim.pod()["spec"]["nodeName"]
    try:
        victim.runs.kubectl(
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=60s",
            f"--pod-selector=diht.dev/run={victim.name}",
            timeout_s=90,
        )
    finally:
        victim.runs.kubectl("uncordon", node)
    return node


def delete_pod(victim: Victim) -> str:
    name = victim.pod()["metadata"]["name"]
    victim.runs.kubectl("delete", "pod", name, "-n", victim.runs.namespace, "--wait=false")
    return name


def lose_node(victim: Victim) -> None:
    Parts().lose_node(1)


def suspend(victim: Victim) -> None:
    victim.runs.patch(victim.name, {"suspend": True})


def delete_job(victim: Victim) -> None:
    old = victim.runs.children(victim.name)[victim.job()]
    victim.runs.kubectl("delete", "job", victim.job(), "-n", victim.runs.namespace, "--wait=false")
    wait_until(lambda: victim.runs.children(victim.name).get(victim.job(), old) != old, "another Job", 90)
    wait_until(victim.runs_on, "its pods", 90)


def orphan(victim: Victim) -> None:
    victim.runs.kubectl("delete", "job", victim.job(), "-n", victim.runs.namespace, "--cascade=orphan")
    wait_until(lambda: "OrphanDeleted" in victim.runs.events(victim.name), "the end of the orphan", 90)


def always(status: Status) -> bool:
    return True


def restore() -> None:
    """Bring back a node that was lost."""
    with contextlib.suppress(KubectlError):
        script("up")


ON_NODE_1 = {"nodeSelector": {"kubernetes.io/hostname": "node-1"}}
FAULTS: dict[str, Fault] = {
    "exit code 64": Fault(r"UserError.*told to end with 64", (64,), shown=failed, waits=False),
    "exit code 65": Fault(r"BadData.*told to end with 65", (65,), shown=failed, waits=False),
    "exit code 75": Fault(r"last failure.*exit code 75.*told to end with 75", (75, "hang"), waits=False),
    "exit code 1": Fault(r"last failure.*exit code 1\b.*told to end with 1", (1, "hang"), waits=False),
    "killed": Fault(r"last failure.*exit code 137", act=kill),
    "evicted": Fault(r"last failure.*{found} was drained", act=evict_pod, stages=GANG_OF_TWO),
    "drained": Fault(r"last failure.*{found} was drained", act=drain, stages=GANG_OF_TWO),
    "worker evicted": Fault(r" runs: ", act=replace_worker, shown=reason("Running"), stages=WORKER),
    "pod deleted": Fault(r"last failure.*(PodRemoved|removed|deleted)", act=delete_pod),
    "node lost": Fault(
        r"last failure.*NodeLost.*node-1", act=lose_node, pods=ON_NODE_1, stages=WORKER, timeout_s=240, weight=1
    ),
    "deadline": Fault(r"failed \(DeadlineExceeded\)", shown=failed, spec={"activeDeadlineSeconds": 8}, waits=False),
    "suspended": Fault(r"does not run \(Suspended\)", act=suspend, shown=reason("Suspended")),
    "no image": Fault(
        r"does not run \(ImagePullFailed\).*local/none:1",
        pods={"image": "local/none:1"},
        shown=reason("ImagePullFailed"),
        waits=False,
        weight=2,
    ),
    "no GPU": Fault(
        r"does not run \(Unschedulable\).*Insufficient nvidia.com/gpu",
        pods={"resources": {"nvidia.com/gpu": 1}},
        shown=reason("Unschedulable"),
        waits=False,
        weight=2,
    ),
    "no Secret": Fault(
        r"does not run \(ReferenceMissing\).*none",
        shown=reason("ReferenceMissing"),
        waits=False,
        weight=2,
        pods={
            "volumes": [{"name": "x", "secret": {"secretName": "none"}}],
            "volumeMounts": [{"name": "x", "mountPath": "/x"}],
        },
    ),
    "out of memory": Fault(
        r"failed \(OutOfMemory\)",
        shown=failed,
        pods={"resources": {"memory": "24Mi"}},
        waits=False,
        stages=WORKER,
    ),
    "Job deleted": Fault(r" runs: ", act=delete_job, shown=reason("Running"), stages=WORKER, timeout_s=150),
    "Job orphaned": Fault(r"has lost its Job", act=orphan, shown=always, stages=WORKER, timeout_s=150),
}
