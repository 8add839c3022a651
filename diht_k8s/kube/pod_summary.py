"""Summaries of the pods of attempts, cut from the API's JSON while it is read. Pure.

Ten thousand pods take a gigabyte as the client's models, and a few dozen megabytes as these.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.gangs import DECISION_ANNOTATION, GangDecision, decision_in
from diht_k8s.kube.object_fields import (
    INDEX_LABEL,
    JOB_UID_LABEL,
    RUN_UID_LABEL,
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

CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"
"""Names the program's container, for kubectl, too: a cluster may add others."""
EVICTED: Final = "Evicted"
"""Reason of a pod that a kubelet removed or did not admit; what its program says of its end is a consequence."""
INVENTED_ENDS: Final = frozenset({"ContainerStatusUnknown"})
"""Reasons with which the kubelet invents an exit code: it lost the container, and no program is known to have ended."""


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
    """of its owner, if that is a Job, else what the Job controller left as a label."""
    index: int
    phase: str
    created_at: float
    seen_at: float = 0.0
    """when the operator first saw it, by the operator's clock; creationTimestamp until then."""
    job_name: str = ""
    """of the Job that owns it."""
    run_uid: str = ""
    """of its run, by its label."""
    node: str = ""
    ready: bool = False
    not_ready_since: float | None = None
    scheduled_at: float | None = None
    """when it got its node."""
    started_at: float | None = None
    running_at: float | None = None
    """`started_at` by the node's clock, which the operator's never replaces."""
    finished_at: float | None = None
    end_seen_at: float | None = None
    """when the operator first saw its end, by the operator's clock; `finished_at` until then."""
    deleted_at: float | None = None
    """deletionTimestamp: when it must be gone."""
    grace_s: int = 0
    """seconds from its deletion to deletionTimestamp."""
    container: str = ""
    """the one whose end is told, or the program's."""
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
    decision: GangDecision | None = None
    """what its gang was told, for pod 0 of one that resizes in its living pods."""

    @property
    def exceeded_its_limit(self) -> bool:
        """Whether it was evicted for a limit of its own: one that its node has no room for has a disruption, too, and
        one that its node does not admit never starts.
        """
        return self.reason == EVICTED and not self.disruption and self.started_at is not None

    @property
    def ended(self) -> bool:
        """Whether its program has ended."""
        return self.phase in ("Succeeded", "Failed")

    def is_known_by(self, run_uid: str, jobs: Collection[str]) -> bool:
        """Whether it names one of these Jobs by UID, or its run if it has no owner."""
        return self.job_uid in jobs or (not self.job_name and bool(run_uid) and self.run_uid == run_uid)


def pod_summary(document: Any) -> PodSummary | Unreadable | None:
    """The summary of a pod; None if it lacks our labels. Never raises."""
    return guarded(_pod, document)


def _pod(document: Document) -> PodSummary | None:
    metadata, spec, status = (mapping(document.get(key)) for key in ("metadata", "spec", "status"))
    labels = mapping(metadata.get("labels"))
    if not is_attempts_object(labels):
        return None
    conditions, owner = conditions_of(status), owner_of(metadata)
    owned_by_job = owner.get("kind") == "Job"
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    annotations = mapping(metadata.get("annotations"))
    container = _container(status, text(annotations, CONTAINER_ANNOTATION))
    created_at = epoch_seconds(metadata.get("creationTimestamp")) or 0.0
    return PodSummary(
        **common_fields(metadata, labels),
        job_uid=text(owner if owned_by_job else labels, "uid" if owned_by_job else JOB_UID_LABEL),
        job_name=text(owner, "name") if owned_by_job else "",
        run_uid=text(labels, RUN_UID_LABEL),
        index=count(labels.get(INDEX_LABEL, "0"), "InvalidIndex"),
        phase=text(status, "phase") or "Pending",
        created_at=created_at,
        seen_at=created_at,
        node=text(spec, "nodeName"),
        ready=ready.get("status") == "True",
        not_ready_since=epoch_seconds(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None,
        deleted_at=epoch_seconds(metadata.get("deletionTimestamp")),
        grace_s=whole_number(metadata.get("deletionGracePeriodSeconds") or 0),
        disruption=text(disruption, "reason") if disruption.get("status") == "True" else "",
        scheduled_at=epoch_seconds(scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None),
        unschedulable=text(scheduled, "message") if scheduled.get("status") == "False" else "",
        decision=decision_in(str(annotations.get(DECISION_ANNOTATION, ""))),
        end_seen_at=container.get("finished_at"),
        running_at=container.get("started_at"),
        **container,
    )


def _container(status: Document, name: str) -> dict[str, Any]:
    """The state of a pod's program, and of what a cluster adds to the pod where that keeps the program from starting or
    fails the pod after it.

    Args:
        status: of the pod.
        name: of the program's container; empty if the pod does not say it.
    """
    found: dict[str, Any] = {"container": name, "reason": text(status, "reason"), "message": text(status, "message")}
    before, all_ = ([*items(status.get(key))] for key in ("initContainerStatuses", "containerStatuses"))
    ours = [each for each in all_ if not name or text(each, "name") == name]
    begun = any(mapping(each.get("state")).get("waiting") is None for each in ours)
    others = [each for each in all_ if each not in ours] if text(status, "phase") == "Failed" else []
    for container in (*([] if begun else filter(_delays, before)), *ours, *others):
        state = mapping(container.get("state"))
        if state.get("waiting") is not None and "waiting" not in found:
            waiting = mapping(state["waiting"])
            found |= {"waiting": text(waiting, "reason"), "waiting_message": text(waiting, "message")}
        if state.get("running") is not None:
            found.setdefault("started_at", epoch_seconds(mapping(state["running"]).get("startedAt")))
        if state.get("terminated") is not None and not found.get("exit_code"):
            found |= _terminated(text(container, "name"), mapping(state["terminated"]), found)
    return found


def _delays(container: Document) -> bool:
    """Whether a container that comes before the program neither runs nor has succeeded."""
    state = mapping(container.get("state"))
    return state.get("running") is None and mapping(state.get("terminated")).get("exitCode") != 0


def _terminated(name: str, ended: Document, pod: Document) -> dict[str, Any]:
    reason, code, evicted = text(ended, "reason"), ended.get("exitCode"), pod["reason"] == EVICTED
    invented = reason in INVENTED_ENDS or evicted  # the kubelet ended it, whatever it answered
    return {
        "container": name,
        "exit_code": None if code is None or invented else whole_number(code),
        "reason": pod["reason"] or reason,
        "message": pod["message"] if evicted else text(ended, "message") or pod["message"],
        "started_at": epoch_seconds(ended.get("startedAt")),
        "finished_at": epoch_seconds(ended.get("finishedAt")),
    }
