"""Summaries of Kueue's Workloads that hold the quota of a run's stages. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diht_k8s.api.base import seconds
from diht_k8s.kube.object_fields import (
    EXTRA_LABEL,
    RUN_LABEL,
    SHAPE_ANNOTATION,
    STAGE_LABEL,
    Document,
    Unreadable,
    guarded,
)


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """The place of one stage in a queue of Kueue."""

    namespace: str
    name: str
    uid: str
    version: str
    run: str
    owner_uid: str
    stage: str
    """entry in status.stages."""
    extra: bool = False
    """whether it is for the nodes of a training beyond its fewest."""
    count: int = 0
    """pods that it asks quota for."""
    admitted_count: int = 0
    """pods that it was admitted with."""
    admitted_at: float = 0.0
    """since when it is admitted, seconds since the epoch."""
    created_at: float = 0.0
    queue: str = ""
    shape: str = ""
    reserved: bool = False
    """whether it holds quota."""
    refused: bool = False
    """whether Kueue has looked at it and has no quota for it."""
    admitted: bool = False
    evicted: bool = False
    """Kueue wants its quota back."""
    finished: bool = False
    deleted: bool = False
    pods_ready: bool = False
    message: str = ""
    """why it waits or was evicted, in Kueue's words."""

    @property
    def may_run(self) -> bool:
        """Whether pods may run on its quota."""
        return self.admitted and not (self.evicted or self.finished or self.deleted)


def workload_summary(document: Any) -> WorkloadSummary | Unreadable | None:
    """The summary of a Workload; None if it lacks our labels. Never raises."""
    return guarded(_workload, document)


def _workload(document: Document) -> WorkloadSummary | None:
    metadata, spec, status = document["metadata"], document["spec"], document.get("status") or {}
    labels = metadata.get("labels") or {}
    if not {RUN_LABEL, STAGE_LABEL} <= labels.keys():
        return None
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    true = {kind for kind, each in conditions.items() if each.get("status") == "True"}
    said = conditions.get("Evicted" if "Evicted" in true else "QuotaReserved", {})
    owner = next((each for each in metadata.get("ownerReferences") or () if each.get("controller")), {})
    version = metadata["resourceVersion"]
    int(version)
    return WorkloadSummary(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=version,
        run=labels[RUN_LABEL],
        owner_uid=owner.get("uid", ""),
        stage=labels[STAGE_LABEL],
        extra=EXTRA_LABEL in labels,
        count=_counted(spec.get("podSets")),
        admitted_count=_admitted(spec, status),
        admitted_at=seconds(conditions.get("Admitted", {}).get("lastTransitionTime")) or 0.0,
        created_at=seconds(metadata.get("creationTimestamp")) or 0.0,
        queue=spec.get("queueName", ""),
        shape=(metadata.get("annotations") or {}).get(SHAPE_ANNOTATION, ""),
        reserved="QuotaReserved" in true,
        refused=conditions.get("QuotaReserved", {}).get("status") == "False",
        admitted="Admitted" in true,
        evicted="Evicted" in true,
        finished="Finished" in true,
        deleted="deletionTimestamp" in metadata,
        pods_ready="PodsReady" in true,
        message=str(said.get("message", "")),
    )


def _counted(sets: Any) -> int:
    return sum(each.get("count", 1) for each in sets or ())


def _admitted(spec: Document, status: Document) -> int:
    """Pods of an admission, which names a number only where it is not that of the Workload."""
    assigned = (status.get("admission") or {}).get("podSetAssignments") or ()
    if not assigned:
        return 0
    return sum(each.get("count") or 0 for each in assigned) or _counted(spec.get("podSets"))
