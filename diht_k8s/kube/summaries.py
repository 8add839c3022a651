"""Summaries of Jobs and pods: small dataclasses, cut from the API's JSON while it is read. Pure.

Ten thousand pods take a gigabyte as the client's models, and a few dozen megabytes as these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

RUN_LABEL: Final = "diht.dev/run"
STAGE_LABEL: Final = "diht.dev/stage"
"""The name of the entry in status.stages: `train`, `label-heads`, ..."""
ATTEMPT_LABEL: Final = "diht.dev/attempt"
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
MAX_MESSAGE: Final = 4096

Document = Mapping[str, Any]


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
    complete: bool = False
    failing: bool = False
    """it has failed; pods may still be terminating."""
    over: bool = False
    """it has failed or is complete, and no pod is left."""
    reason: str = ""
    message: str = ""
    suspended: bool = False
    deleted: bool = False
    queue: str = ""


@dataclass(frozen=True, slots=True)
class PodSummary:
    """One pod of an attempt."""

    namespace: str
    name: str
    uid: str
    version: str
    run: str
    stage: str
    attempt: int
    job_uid: str
    index: int
    phase: str
    created_at: float
    node: str = ""
    ready: bool = False
    not_ready_since: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    deleted_at: float | None = None
    """deletionTimestamp: when it must be gone."""
    container: str = ""
    exit_code: int | None = None
    reason: str = ""
    """of the container's end, or of the pod's failure: Error, OOMKilled, Evicted, ..."""
    message: str = ""
    """what the program left as its termination message, or Kubernetes' words."""
    disruption: str = ""
    """reason of the DisruptionTarget condition, if it has one."""
    waiting: str = ""
    """reason why the container waits: ImagePullBackOff, ContainerCreating, ..."""
    waiting_message: str = ""
    unschedulable: str = ""
    """the scheduler's message while no node takes it."""

    @property
    def ended(self) -> bool:
        """Whether its program has ended."""
        return self.phase in ("Succeeded", "Failed")


def job_summary(document: Document) -> JobSummary | None:
    """The summary of a Job; None if it lacks our labels."""
    metadata, spec, status = document["metadata"], document["spec"], document.get("status") or {}
    labels = metadata.get("labels") or {}
    if not _is_ours(labels):
        return None
    conditions = {each["type"]: each for each in status.get("conditions") or () if each.get("status") == "True"}
    failure = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    complete = "Complete" in conditions or "SuccessCriteriaMet" in conditions
    return JobSummary(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        run=labels[RUN_LABEL],
        owner_uid=_owner_uid(metadata),
        stage=labels[STAGE_LABEL],
        attempt=int(labels[ATTEMPT_LABEL]),
        parallelism=spec.get("parallelism", 1),
        created_at=_seconds(metadata.get("creationTimestamp")) or 0.0,
        complete=complete,
        failing=bool(failure) and not complete,
        over="Complete" in conditions or "Failed" in conditions,
        reason=failure.get("reason", ""),
        message=failure.get("message", "")[:MAX_MESSAGE],
        suspended=bool(spec.get("suspend")),
        deleted="deletionTimestamp" in metadata,
        queue=labels.get("kueue.x-k8s.io/queue-name", ""),
    )


def pod_summary(document: Document) -> PodSummary | None:
    """The summary of a pod; None if it lacks our labels."""
    metadata, status = document["metadata"], document.get("status") or {}
    labels = metadata.get("labels") or {}
    if not _is_ours(labels):
        return None
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    return PodSummary(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        run=labels[RUN_LABEL],
        stage=labels[STAGE_LABEL],
        attempt=int(labels[ATTEMPT_LABEL]),
        job_uid=_owner_uid(metadata),
        index=int(labels.get(INDEX_LABEL, 0)),
        phase=status.get("phase", "Pending"),
        created_at=_seconds(metadata.get("creationTimestamp")) or 0.0,
        node=document["spec"].get("nodeName", ""),
        ready=ready.get("status") == "True",
        not_ready_since=_seconds(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None,
        deleted_at=_seconds(metadata.get("deletionTimestamp")),
        disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
        unschedulable=scheduled.get("message", "")[:MAX_MESSAGE] if scheduled.get("status") == "False" else "",
        **_container(status),
    )


def _container(status: Document) -> dict[str, Any]:
    """The state of a pod's program. Sidecars that a cluster adds come after our container or succeed."""
    found: dict[str, Any] = {"reason": status.get("reason", ""), "message": status.get("message", "")[:MAX_MESSAGE]}
    statuses = status.get("containerStatuses") or ()
    for container in (*(status.get("initContainerStatuses") or ()), *statuses):
        state = container.get("state") or {}
        if (waiting := state.get("waiting")) is not None and "waiting" not in found:
            found |= {"waiting": waiting.get("reason", ""), "waiting_message": waiting.get("message", "")[:MAX_MESSAGE]}
        if (running := state.get("running")) is not None:
            found.setdefault("started_at", _seconds(running.get("startedAt")))
        if (ended := state.get("terminated")) is not None and not found.get("exit_code"):
            found |= _terminated(container.get("name", ""), ended, found)
    return found


def _terminated(name: str, ended: Document, pod: Document) -> dict[str, Any]:
    return {
        "container": name,
        "exit_code": ended.get("exitCode"),
        "reason": pod["reason"] or ended.get("reason", ""),
        "message": ended.get("message", "")[:MAX_MESSAGE] or pod["message"],
        "started_at": _seconds(ended.get("startedAt")),
        "finished_at": _seconds(ended.get("finishedAt")),
    }


def _is_ours(labels: Mapping[str, str]) -> bool:
    return {RUN_LABEL, STAGE_LABEL} <= labels.keys() and labels.get(ATTEMPT_LABEL, "").isdigit()


def _owner_uid(metadata: Document) -> str:
    return next((owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("controller")), "")


def _seconds(text: str | None) -> float | None:
    """Kubernetes' time as seconds since the epoch."""
    return None if not text else datetime.fromisoformat(text).timestamp()
