"""Summaries of the Jobs of attempts, cut from the API's JSON while it is read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diht_k8s.kube.object_fields import (
    QUEUE_ANNOTATION,
    QUEUED_ANNOTATION,
    QUOTA_ANNOTATION,
    RESIZES_ANNOTATION,
    UNHEALTHY_NODES_ANNOTATION,
    WORKLOAD_ANNOTATION,
    Document,
    Unreadable,
    common_fields,
    conditions_of,
    count,
    epoch_seconds,
    guarded,
    is_attempts_object,
    items,
    mapping,
    owner_of,
    text,
    whole_number,
)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The Job of one attempt."""

    namespace: str
    name: str
    uid: str
    version: str
    """resourceVersion."""
    run: str
    owner_uid: str
    stage: str
    """entry in status.stages."""
    attempt: int
    parallelism: int
    created_at: float
    one_suffices: bool = False
    """whether it is complete once any of its pods has succeeded."""
    seen_at: float = 0.0
    """when the operator first saw it, by the operator's clock; creationTimestamp until then."""
    complete: bool = False
    failing: bool = False
    """it has failed; pods may still be terminating."""
    over: bool = False
    """it has failed or is complete, and no pod is left."""
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    """when it was last admitted: its pods may be created from then on."""
    ended_at: float | None = None
    """when it was decided how it ends, or it was deleted, or went back into its queue."""
    suspended: bool = False
    deleted: bool = False
    queue: str = ""
    workload: str = ""
    """name of the run's Workload on whose quota it runs; empty where Kueue made one for the Job."""
    quota_nodes: int | None = None
    """nodes for which an elastic training had quota as it was made; None of any other."""
    pod_group: str = ""
    """the PodGroup of its pods."""
    queued_at: float | None = None
    """when its run began to wait in the queue, before the Job existed."""
    resizes: bool = False
    """whether its gang goes on as nodes go and come, in the pods that live."""
    unhealthy_nodes: str = ""
    """nodes that were known as unhealthy when it was created, comma-separated."""


def job_summary(document: Any) -> JobSummary | Unreadable | None:
    """The summary of a Job; None if it lacks our labels. Never raises."""
    return guarded(_job, document)


def _job(document: Document) -> JobSummary | None:
    metadata, spec, status = (mapping(document.get(key)) for key in ("metadata", "spec", "status"))
    labels, annotations = mapping(metadata.get("labels")), mapping(metadata.get("annotations"))
    if not is_attempts_object(labels):
        return None
    conditions = {kind: each for kind, each in conditions_of(status).items() if each.get("status") == "True"}
    failure = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    complete = "Complete" in conditions or "SuccessCriteriaMet" in conditions
    created_at = epoch_seconds(metadata.get("creationTimestamp")) or 0.0
    return JobSummary(
        **common_fields(metadata, labels),
        owner_uid=text(owner_of(metadata), "uid"),
        parallelism=whole_number(1 if spec.get("parallelism") is None else spec["parallelism"]),
        created_at=created_at,
        one_suffices=any(
            rule.get("succeededCount") == 1 for rule in items(mapping(spec.get("successPolicy")).get("rules"))
        ),
        seen_at=created_at,
        complete=complete,
        failing=bool(failure) and not complete,
        over="Complete" in conditions or "Failed" in conditions,
        reason=text(failure, "reason"),
        message=text(failure, "message"),
        started_at=epoch_seconds(status.get("startTime")),
        ended_at=_job_end(metadata, status, conditions),
        suspended=spec.get("suspend") is True,
        deleted="deletionTimestamp" in metadata,
        queue=text(labels, "kueue.x-k8s.io/queue-name") or text(annotations, QUEUE_ANNOTATION),
        workload=text(annotations, WORKLOAD_ANNOTATION),
        quota_nodes=_count(annotations.get(QUOTA_ANNOTATION)),
        pod_group=_pod_group(spec),
        queued_at=epoch_seconds(annotations.get(QUEUED_ANNOTATION)),
        resizes=RESIZES_ANNOTATION in annotations,
        unhealthy_nodes=text(annotations, UNHEALTHY_NODES_ANNOTATION),
    )


def _count(found: Any) -> int | None:
    return None if found is None else count(found, "InvalidCount")


def _pod_group(spec: Document) -> str:
    template = mapping(mapping(spec.get("template")).get("spec"))
    return text(mapping(template.get("schedulingGroup")), "podGroupName")


def _job_end(metadata: Document, status: Document, conditions: dict[str, Document]) -> float | None:
    """When it was decided how a Job ends, or it was deleted, or went back into its queue; None while it runs.

    It is over only as its last pod is gone. That comes later, and nobody looks at a run that has ended by then.
    """
    decided = [conditions.get(kind, {}) for kind in ("FailureTarget", "SuccessCriteriaMet", "Failed")]
    ends = (
        *(each.get("lastTransitionTime") for each in decided),
        status.get("completionTime"),
        conditions.get("Suspended", {}).get("lastTransitionTime"),
        metadata.get("deletionTimestamp"),
    )
    return next((epoch_seconds(time) for time in ends if time), None)
