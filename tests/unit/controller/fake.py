"""A cluster in memory: it stores what the operator writes, feeds informers, and ends Jobs as a test asks.

It keeps resource versions, refuses writes from stale ones, and can die at any write like the operator's process.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diht_k8s.controller.cache.runs import RunStore, cached_run
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.reconcile import Reconciler
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from diht_k8s.kube.workload_summary import WorkloadSummary, workload_summary
from tests.unit.controller.documents import NOW, RUN_UID, at, ended


class Dead(BaseException):
    """The operator's process died here."""


@dataclass
class FakeInformer:
    """An informer that a test fills."""

    reduce: Callable[[Any], Any]
    summaries: dict[str, Any] = field(default_factory=dict)
    absent: str = ""

    def of(self, namespace: str, run: str) -> list[Any]:
        return [summary for summary in self.summaries.values() if (summary.namespace, summary.run) == (namespace, run)]

    def runs_on(self, node: str) -> list[tuple[str, str]]:
        return [(each.namespace, each.run) for each in self.summaries.values() if each.node == node]

    def put(self, document: Any) -> None:
        summary = self.reduce(document)
        if isinstance(summary, JobSummary | PodSummary | WorkloadSummary):
            self.summaries[summary.uid] = summary


@dataclass
class FakeCluster:
    """The API server; every method that the operator calls, by the same names."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """kind -> name -> object: Workloads, PodGroups, ResourceFlavors ..."""
    recorded: list[dict[str, Any]] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    warning_events: list[dict[str, Any]] = field(default_factory=list)
    pod_events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    """kind and name of each object that was checked and not created."""
    refuse: dict[str, ClusterError] = field(default_factory=dict)
    """name of a write -> its answer"""
    die_after: int | None = None
    pod_groups: bool = False
    version: int = 100
    clock: Callable[[], float] = lambda: NOW
    """when objects are created."""

    def add_run(self, document: dict[str, Any], uid: str = RUN_UID) -> None:
        self.version += 1
        metadata = {
            **document["metadata"],
            "namespace": "n",
            "uid": uid,
            "generation": 1,
            "resourceVersion": str(self.version),
            "creationTimestamp": at(NOW),
        }
        self.runs[metadata["name"]] = {**document, "metadata": metadata}

    def edit(self, name: str, **spec: Any) -> None:
        self.version += 1
        run = self.runs[name]
        run["spec"] = {**run["spec"], **spec}
        run["metadata"]["generation"] += 1
        run["metadata"]["resourceVersion"] = str(self.version)

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        if self.die_after is not None and len(self.writes) >= self.die_after:
            raise Dead

    def _may(self, what: str) -> None:
        if what in self.refuse:
            raise self.refuse[what]

    def create(self, document: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        kind, name = document["kind"], document["metadata"]["name"]
        if dry_run:
            self.checked.append(f"{kind} {name}")
            self._may(f"check {kind} {name}")
            return document
        self._may(f"create {kind}")
        store = self._store(kind)
        if name in store:
            raise ClusterError(409, "AlreadyExists", f"{name} already exists")
        self.version += 1
        made = copy.deepcopy(document)
        made["metadata"] |= {
            "uid": f"uid-{name}-{self.version}",
            "resourceVersion": str(self.version),
            "creationTimestamp": at(self.clock()),
        }
        store[name] = made
        self._wrote(f"create {kind} {name}")
        return made

    def _store(self, kind: str) -> dict[str, dict[str, Any]]:
        if kind in ("Job", "Service", "Pod"):
            return {"Job": self.jobs, "Service": self.services, "Pod": self.pods}[kind]
        return self.others.setdefault(kind, {})

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        self._may(f"get {kind}")
        if name not in self._store(kind):
            raise ClusterError(404, "NotFound", f"{kind} {name} not found")
        return copy.deepcopy(self._store(kind)[name])

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        if name not in self._store(kind):
            raise ClusterError(404, "NotFound", name)
        if uid not in (None, self._store(kind)[name]["metadata"]["uid"]):
            raise ClusterError(409, "Conflict", "the UID in the precondition does not match")
        del self._store(kind)[name]
        self._wrote(f"delete {kind} {name}")

    def patch_pod_group(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self._may("patch PodGroup")
        self.others["PodGroup"][name]["spec"] |= patch["spec"]
        self._wrote(f"patch PodGroup {name}")

    def patch_pod_status(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self._may("patch pod")
        if name not in self.pods:
            raise ClusterError(404, "NotFound", name)
        metadata, status = self.pods[name]["metadata"], self.pods[name]["status"]
        if patch["metadata"]["uid"] != metadata["uid"]:
            raise ClusterError(409, "Conflict", "the UID in the precondition does not match")
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        metadata["annotations"] = {**metadata.get("annotations", {}), **patch["metadata"].get("annotations", {})}
        new = dict(patch.get("status", {}))
        by_type = {each["type"]: each for each in (*status["conditions"], *new.pop("conditions", ()))}
        status |= {**new, "conditions": list(by_type.values())}
        self._wrote(f"patch Pod {name}")

    def patch_workload_status(self, namespace: str, name: str, patch: dict[str, Any]) -> None:
        found = self.others["Workload"][name]
        if patch["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise ClusterError(409, "Conflict", "the object has been modified")
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        status = {**found.get("status", {}), **patch["status"]}
        found["status"] = {key: value for key, value in status.items() if value is not None}
        self._wrote(f"patch Workload {name}")

    def delete_job(self, namespace: str, name: str, uid: str) -> None:
        if name not in self.jobs:
            raise ClusterError(404, "NotFound", name)
        if self.jobs[name]["metadata"]["uid"] != uid:
            raise ClusterError(409, "Conflict", "the UID in the precondition does not match")
        del self.jobs[name]
        self.pods = {key: pod for key, pod in self.pods.items() if not key.startswith(f"{name}-")}
        self._wrote(f"delete Job {name}")

    def get_run(self, namespace: str, name: str) -> dict[str, Any]:
        if name not in self.runs:
            raise ClusterError(404, "NotFound", name)
        return copy.deepcopy(self.runs[name])

    def items(self, kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
        key, _, value = selector.partition("=")
        store = self.jobs if kind == "Job" else self.pods
        self._may(f"list {kind}")
        self.asked.append(f"{kind}s of {value}")
        return [copy.deepcopy(each) for each in store.values() if each["metadata"]["labels"].get(key) == value]

    def delete_run(self, namespace: str, name: str, uid: str, version: str) -> None:
        if name not in self.runs:
            raise ClusterError(404, "NotFound", name)
        if self.runs[name]["metadata"]["resourceVersion"] != version:
            raise ClusterError(409, "Conflict", "the resourceVersion in the precondition does not match")
        del self.runs[name]
        self._wrote(f"delete run {name}")

    def write_status(self, namespace: str, name: str, version: str, status: Any) -> dict[str, Any]:
        if name not in self.runs:
            raise ClusterError(404, "NotFound", name)
        self._may("write status")
        run = self.runs[name]
        if run["metadata"]["resourceVersion"] != version:
            raise ClusterError(409, "Conflict", "the object has been modified")
        self.version += 1
        run["status"] = json.loads(json.dumps(status))
        run["metadata"]["resourceVersion"] = str(self.version)
        self._wrote(f"status {name}")
        return copy.deepcopy(run)

    def write_event(self, namespace: str, document: dict[str, Any]) -> None:
        self.recorded.append(document)
        self._wrote("event")

    def warnings(self, namespace: str) -> list[dict[str, Any]]:
        self.asked.append(namespace)
        return self.warning_events

    def events(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        name = selector.rpartition("involvedObject.name=")[2]
        self.asked.append(f"events of {name}")
        return self.pod_events.get(name, [])

    def log_tail(self, namespace: str, pod: str, container: str, lines: int) -> str:
        return self.logs.get(pod, "")

    def workload_of(self, namespace: str, job_uid: str) -> None:
        return None

    def run_pods(self, name: str) -> None:
        """The pods of a Job run."""
        for index in range(self.jobs[name]["spec"]["parallelism"]):
            self._pod(name, index, {"running": {"startedAt": at(NOW)}}, "Running")

    def end(self, name: str, code: int, *, message: str = "") -> None:
        """The programs of a Job end."""
        job = self.jobs[name]
        for index in range(job["spec"]["parallelism"]):
            phase = "Failed" if code else "Succeeded"
            state = ended(code, message=message, reason="Error" if code else "Completed", finished=NOW - 10)
            self._pod(name, index, state, phase)
        kind = "Failed" if code else "Complete"
        job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "x"}]}
        self.version += 1
        job["metadata"]["resourceVersion"] = str(self.version)

    def _pod(self, job: str, index: int, state: dict[str, Any], phase: str) -> None:
        self.version += 1
        labels = self.jobs[job]["metadata"]["labels"]
        name = f"{job}-{index}"
        self.pods[name] = {
            "metadata": {
                "namespace": "n",
                "name": name,
                "uid": f"uid-{name}",
                "resourceVersion": str(self.version),
                "creationTimestamp": at(NOW),
                "labels": {**labels, "batch.kubernetes.io/job-completion-index": str(index)},
                "ownerReferences": [
                    {"kind": "Job", "name": job, "uid": self.jobs[job]["metadata"]["uid"], "controller": True}
                ],
            },
            "spec": {"nodeName": "node-0"},
            "status": {
                "phase": phase,
                "conditions": [{"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": at(NOW)}],
                "containerStatuses": [{"name": "c", "state": state}],
            },
        }


class Nodes:
    """Nodes with faults, as a test sets them."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[NodeFault, ...]] = {}

    def faults(self, node: str) -> tuple[NodeFault, ...]:
        return self.found.get(node, ())

    def unhealthy(self) -> list[str]:
        return sorted(self.found)


class Process:
    """One operator process against a FakeCluster; all that it knows ends with it."""

    def __init__(self, cluster: FakeCluster, clock: Callable[[], float], nodes: Any = None) -> None:
        self.cluster, self.runs = cluster, RunStore()
        self.jobs, self.pods, self.workloads = (
            FakeInformer(job_summary),
            FakeInformer(pod_summary),
            FakeInformer(workload_summary),
        )
        self.reconciler = Reconciler(
            cluster,
            self.runs,
            self.jobs,
            self.pods,
            self.workloads,  # type: ignore[arg-type]
            pod_groups=lambda: cluster.pod_groups,
            clock=clock,
            jitter=lambda: 0.0,
            nodes=nodes,
        )

    def sync(self) -> None:
        """Take in the cluster as it is, as watches would report it."""
        for name, document in self.cluster.runs.items():
            self.runs.put(cached_run(copy.deepcopy(document)))
            assert name
        for key, _ in self.runs.uids():
            if key[1] not in self.cluster.runs:
                self.runs.remove(key)
        workloads = self.cluster.others.get("Workload", {})
        for informer, documents in (
            (self.jobs, self.cluster.jobs),
            (self.pods, self.cluster.pods),
            (self.workloads, workloads),
        ):
            informer.summaries = {}
            for document in documents.values():
                informer.put(document)

    def reconcile(self, name: str = "r") -> float | None:
        """Sync, then reconcile once."""
        self.sync()
        return self.reconciler.reconcile(("n", name))
