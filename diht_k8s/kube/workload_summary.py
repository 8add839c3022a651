"""Summaries of Kueue's Workloads that hold the quota of a run's stages. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diht_k8s.api.times import seconds
from diht_k8s.kube.labels import RUN_LABEL, SHAPE_ANNOTATION, STAGE_LABEL
from diht_k8s.kube.object_fields import Document, Unreadable, guarded


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
    created_at: float = 0.0
    queue: str = ""
    shape: str = ""
    reserved: bool = False
    """whether it holds quota."""
    admitted: bool = False
    evicted: bool = False
    """Kueue wants its quota back."""
    finished: bool = False
    deleted: bool = False
    pods_ready: bool = False
    message: str = ""
    """why it waits or was evicted, in Kueue's words."""


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
        created_at=seconds(metadata.get("creationTimestamp")) or 0.0,
        queue=spec.get("queueName", ""),
        shape=(metadata.get("annotations") or {}).get(SHAPE_ANNOTATION, ""),
        reserved="QuotaReserved" in true,
        admitted="Admitted" in true,
        evicted="Evicted" in true,
        finished="Finished" in true,
        deleted="deletionTimestamp" in metadata,
        pods_ready="PodsReady" in true,
        message=str(said.get("message", "")),
    )
