"""Kueue's Workload of a stage: its document, patches of its status, and its admission put into the stage's Job.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.base import timestamp
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.pods import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.connection import KINDS, KUEUE
from diht_k8s.kube.object_fields import (
    EXTRA_LABEL,
    INDEX_LABEL,
    QUEUE_ANNOTATION,
    QUEUED_ANNOTATION,
    QUOTA_ANNOTATION,
    SHAPE_ANNOTATION,
    WORKLOAD_ANNOTATION,
)
from diht_k8s.launch.overlays import EQUAL_COMPLETIONS, MIN_PARALLELISM

POD_SET: Final = "main"
EXTRA: Final = "-extra"
"""End of the name of the Workload of the nodes beyond an elastic training's fewest."""
LEAST_PRIORITY: Final = -(2**31)
POD_SET_LABEL: Final = "kueue.x-k8s.io/podset"
POD_WORKLOAD: Final = "kueue.x-k8s.io/workload"
TOPOLOGY_GATE: Final = {"name": "kueue.x-k8s.io/topology"}
"""Held until Kueue has given each pod its node, by the two labels and annotations above."""
TOPOLOGY: Final = {
    "required": f"{KUEUE}/podset-required-topology",
    "preferred": f"{KUEUE}/podset-preferred-topology",
    "unconstrained": f"{KUEUE}/podset-unconstrained-topology",
    "podSetSliceRequiredTopology": f"{KUEUE}/podset-slice-required-topology",
    "podSetSliceSize": f"{KUEUE}/podset-slice-size",
}
PLACED_BY: Final = ("nodeSelector", "tolerations", "priorityClassName", "runtimeClassName")
"""Fields of a pod by which Kueue chooses a flavour or a quota; it needs no others."""
REQUIRED_NODES: Final = "requiredDuringSchedulingIgnoredDuringExecution"
REQUEUED: Final = frozenset({"Preempted", "NodeFailures"})
"""Evictions after which a Workload goes back into its queue by itself; after others Kueue puts it back in its time."""

Json = dict[str, Any]


@dataclass(frozen=True)
class WorkloadPriority:
    """The priority of a Workload and where it comes from."""

    value: int
    reference: Mapping[str, str] | None = None


def pod_set(job: Mapping[str, Any]) -> Json:
    """What the pods of a Job ask of a queue."""
    template, spec = job["spec"]["template"], job["spec"]["template"]["spec"]
    containers = [
        {key: container[key] for key in ("name", "resources") if key in container} for container in spec["containers"]
    ]
    annotations = template["metadata"].get("annotations") or {}
    given = {key: annotations[name] for key, name in TOPOLOGY.items() if name in annotations}
    topology = {key: _topology_value(key, value) for key, value in given.items()}
    kept = {key: spec[key] for key in PLACED_BY if key in spec}
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED_NODES)
    if required:  # nodes that are only avoided change from attempt to attempt
        kept["affinity"] = {"nodeAffinity": {REQUIRED_NODES: required}}
    pods: Json = {
        "name": POD_SET,
        "count": job["spec"]["parallelism"],
        "template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": containers, **kept}},
    }
    if topology:
        pods["topologyRequest"] = {**topology, "podIndexLabel": INDEX_LABEL}
    least = (job["metadata"].get("annotations") or {}).get(MIN_PARALLELISM)
    return {**pods, "minCount": int(least)} if least is not None else pods


def _topology_value(key: str, value: str) -> Any:
    return int(value) if key == "podSetSliceSize" else True if key == "unconstrained" else value


def shape(job: Mapping[str, Any]) -> str:
    """A digest of what a Job asks of its queue: another one needs another Workload."""
    labels = job["metadata"]["labels"]
    asked = {"pods": pod_set(job), "queue": labels[QUEUE_LABEL], "priority": labels.get(QUEUE_PRIORITY_LABEL)}
    return sha256_of(asked)[:32]


def workload_document(name: str, job: Mapping[str, Any], labels: Mapping[str, str], priority: WorkloadPriority) -> Json:
    """The Workload that stands for a Job and for those of the attempts after it.

    Args:
        name: of the Workload.
        job: as `launch.render` makes it, with the label of its queue.
        labels: of the Workload.
        priority: its place in the queue.
    """
    group, version, *_ = KINDS["Workload"]
    spec: Json = {
        "queueName": job["metadata"]["labels"][QUEUE_LABEL],
        "priority": priority.value,
        "podSets": [pod_set(job)],
    }
    if priority.reference is not None:
        spec["priorityClassRef"] = dict(priority.reference)
    return {
        "apiVersion": f"{group}/{version}",
        "kind": "Workload",
        "metadata": {
            "name": name,
            "namespace": job["metadata"]["namespace"],
            "labels": dict(labels),
            "annotations": {SHAPE_ANNOTATION: shape(job)},
            "ownerReferences": deepcopy(job["metadata"]["ownerReferences"]),
        },
        "spec": spec,
    }


def extra_document(base: Json, job: Mapping[str, Any], pods: tuple[int, int], flavours: Iterable[Json]) -> Json:
    """The Workload of the nodes beyond the fewest of an elastic training, which Kueue may evict alone.

    Args:
        base: the document of the Workload of its fewest nodes: this one asks for more of the same pods, with less
            priority.
        job: the training's.
        pods: how many it asks for, and how many of them are of use.
        flavours: the ResourceFlavors that the other one was admitted with: the nodes of one gang are of one kind.
    """
    placed = deepcopy(dict(job))
    placed["spec"]["parallelism"] = pods[0]
    for flavour in flavours:
        _put_on_flavour(placed["spec"]["template"], flavour)
    metadata = base["metadata"]
    return {
        **base,
        "metadata": {
            **metadata,
            "name": f"{metadata['name']}{EXTRA}",
            "labels": {**metadata["labels"], EXTRA_LABEL: "true"},
        },
        "spec": {
            "queueName": base["spec"]["queueName"],
            "priority": max(base["spec"]["priority"] - 1, LEAST_PRIORITY),
            "podSets": [{**pod_set(placed), "minCount": pods[1]}],
        },
    }


def admitted_count(found: Mapping[str, Any]) -> int:
    """The number of pods that a Workload was admitted with."""
    (assignment,) = found["status"]["admission"]["podSetAssignments"]
    return assignment.get("count") or found["spec"]["podSets"][0]["count"]


def flavours_of(found: Mapping[str, Any]) -> list[str]:
    """The ResourceFlavors that a Workload was admitted with, in order."""
    (assignment,) = found["status"]["admission"]["podSetAssignments"]
    return list(dict.fromkeys(flavour for _, flavour in sorted((assignment.get("flavors") or {}).items())))


def gives_places(found: Mapping[str, Any]) -> bool:
    """Whether Kueue gives each pod of a Workload its node."""
    (assignment,) = found["status"]["admission"]["podSetAssignments"]
    return bool(assignment.get("topologyAssignment"))


def put_on_quota(
    job: Json,
    found: Mapping[str, Any],
    flavours: Iterable[Mapping[str, Any]],
    *,
    first: bool,
    nodes: int | None = None,
) -> None:
    """Put a Job on the quota of its admitted Workload: it leaves the queue, and its pods go where the quota is.

    Args:
        job: as `launch.render` makes it; changed in place.
        found: the Workload.
        flavours: the ResourceFlavors of `flavours_of`.
        first: whether it is the first attempt, which has waited since its Workload was created.
        nodes: for which an elastic training has quota, in this Workload and that of the extra ones.
    """
    metadata, template = job["metadata"], job["spec"]["template"]
    queue = metadata["labels"].pop(QUEUE_LABEL)
    metadata["labels"].pop(QUEUE_PRIORITY_LABEL, None)
    annotations = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if key not in (MIN_PARALLELISM, EQUAL_COMPLETIONS)
    }
    annotations |= {WORKLOAD_ANNOTATION: found["metadata"]["name"], QUEUE_ANNOTATION: queue}
    if first:
        annotations[QUEUED_ANNOTATION] = found["metadata"]["creationTimestamp"]
    if nodes is not None:
        annotations[QUOTA_ANNOTATION] = str(nodes)
    metadata["annotations"] = annotations
    for flavour in flavours:
        _put_on_flavour(template, flavour)
    for check in found["status"].get("admissionChecks") or ():
        for update in check.get("podSetUpdates") or ():
            _select(template, update)
    if gives_places(found):
        template["metadata"].setdefault("labels", {})[POD_SET_LABEL] = POD_SET
        template["metadata"].setdefault("annotations", {})[POD_WORKLOAD] = found["metadata"]["name"]
        template["spec"].setdefault("schedulingGates", []).append(dict(TOPOLOGY_GATE))


def _put_on_flavour(template: Json, flavour: Mapping[str, Any]) -> None:
    spec = flavour.get("spec") or {}
    _select(template, {"nodeSelector": spec.get("nodeLabels"), "tolerations": spec.get("tolerations")})


def _select(template: Json, update: Mapping[str, Any]) -> None:
    """Add what a flavour or an admission check says of the pods; it wins over the run."""
    for key in ("labels", "annotations"):
        if update.get(key):
            template["metadata"].setdefault(key, {}).update(update[key])
    spec = template["spec"]
    if update.get("nodeSelector"):
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **update["nodeSelector"]}
    for toleration in update.get("tolerations") or ():
        if toleration not in spec.setdefault("tolerations", []):
            spec["tolerations"].append(dict(toleration))


def release_patch(found: Mapping[str, Any], now: float) -> Json:
    """The patch that clears the reservation of an evicted Workload, as Kueue's own reconciler does for a Job."""
    conditions = _conditions(found)
    evicted = conditions["Evicted"]
    reason, message = evicted["reason"], evicted.get("message", "")
    said = {
        "Requeued": ("True" if reason in REQUEUED else "False", reason, message),
        "QuotaReserved": ("False", "Pending", message),
        "Admitted": ("False", "NoReservation", "The workload has no reservation"),
    }
    if "PodsReady" in conditions:
        said["PodsReady"] = ("False", "WaitForStart", "Not all pods are ready or succeeded")
    return _patch(found, said, now, {"admission": None})


def finish_patch(found: Mapping[str, Any], now: float, *, succeeded: bool) -> Json:
    """The patch that finishes a Workload."""
    said = ("True", "Succeeded", "the stage is complete") if succeeded else ("True", "Failed", "the stage has ended")
    return _patch(found, {"Finished": said}, now)


def pods_ready_patch(found: Mapping[str, Any], now: float) -> Json:
    """The patch that says that all pods are ready."""
    said = {"PodsReady": ("True", "Started", "All pods reached readiness and the workload is running")}
    return _patch(found, said, now)


def _conditions(found: Mapping[str, Any]) -> dict[str, Json]:
    return {each["type"]: each for each in (found.get("status") or {}).get("conditions") or ()}


def _patch(
    found: Mapping[str, Any],
    said: Mapping[str, tuple[str, str, str]],
    now: float,
    more: Mapping[str, Any] | None = None,
) -> Json:
    metadata, conditions = found["metadata"], _conditions(found)
    for kind, (status, reason, message) in said.items():
        before = conditions.get(kind, {})
        kept = before.get("lastTransitionTime") if before.get("status") == status else None
        conditions[kind] = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": one_line(message),
            "lastTransitionTime": kept or timestamp(now),
            "observedGeneration": metadata.get("generation", 0),
        }
    status = {"conditions": list(conditions.values()), **(more or {})}
    return {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
