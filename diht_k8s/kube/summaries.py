"""Summaries of Jobs and pods: small dataclasses, cut from the API's JSON while it is read. Pure.

Ten thousand pods take a gigabyte as the client's models, and a few dozen megabytes as these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from diht_k8s.api.run import Stage
from diht_k8s.api.status import MAX_COUNT
from diht_k8s.api.steps import LABEL_STEPS

RUN_LABEL: Final = "diht.dev/run"
STAGE_LABEL: Final = "diht.dev/stage"
"""The name of the entry in status.stages: `train`, `label-heads`, ..."""
ATTEMPT_LABEL: Final = "diht.dev/attempt"
RUN_UID_LABEL: Final = "diht.dev/run-uid"
"""Tells whose a pod is that was left by a Job which no operator has seen."""
WORKLOAD_ANNOTATION: Final = "diht.dev/workload"
"""Name of the Workload on whose quota a Job runs."""
QUEUE_ANNOTATION: Final = "diht.dev/queue-name"
"""The queue of that Workload."""
QUEUED_ANNOTATION: Final = "diht.dev/queued-since"
"""When the Workload was created; on the Job of the first attempt, which did not exist while it waited."""
MOVED_ANNOTATION: Final = "diht.dev/unhealthy-nodes"
"""Nodes that were known as unhealthy when a Job was created; its gang is not moved away from them again."""
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
JOB_UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
"""Stays on a pod whose Job was deleted without it."""
MAX_MESSAGE: Final = 4096
MAX_NAME: Final = 253
MAX_DIGITS: Final = 20
"""A resourceVersion has 64 bits."""
INVENTED_ENDS: Final = frozenset({"ContainerStatusUnknown"})
"""Reasons for which the kubelet makes up an exit code: it lost the container, and no program is known to have ended."""
UNREADABLE_REASONS: Final = ("InvalidIndex", "InvalidAttempt", "InvalidStage", "Malformed")
"""Why an object cannot be read."""
_STAGES: Final = frozenset(stage.value for stage in Stage)

Document = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object with our labels that cannot be read."""

    reason: str
    """one of UNREADABLE_REASONS."""
    identity: tuple[str, str, str]
    """namespace, name and UID, as far as they can be read."""


class _UnreadableError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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
    """when the operator first saw it, by its own clock; creationTimestamp until then."""
    complete: bool = False
    failing: bool = False
    """it has failed; pods may still be terminating."""
    over: bool = False
    """it has failed or is complete, and no pod is left."""
    reason: str = ""
    message: str = ""
    started_at: float | None = None
    """when it was admitted last: its pods may be created from then on."""
    ended_at: float | None = None
    """when it ended, was deleted, or went back into its queue."""
    suspended: bool = False
    deleted: bool = False
    queue: str = ""
    workload: str = ""
    """the Workload on whose quota it runs, if that is the run's and not its own."""
    pod_group: str = ""
    """the PodGroup of its pods."""
    queued_at: float | None = None
    """since when it waited before it existed."""
    unhealthy_nodes: str = ""
    """nodes that were known as unhealthy when it was created, between commas."""


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
    """when the operator first saw it, by its own clock; creationTimestamp until then."""
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
    """the same as `started_at`, by its node's clock for ever."""
    finished_at: float | None = None
    end_seen_at: float | None = None
    """when the operator first saw its end, by its own clock; `finished_at` until then."""
    deleted_at: float | None = None
    """deletionTimestamp: when it must be gone."""
    grace_s: int = 0
    """seconds from its deletion to deletionTimestamp."""
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

    def is_known_by(self, run_uid: str, jobs: Collection[str]) -> bool:
        """Whether it names one of these Jobs by UID, or its run if it has no owner."""
        return self.job_uid in jobs or (not self.job_name and bool(run_uid) and self.run_uid == run_uid)


def job_summary(document: Any) -> JobSummary | Unreadable | None:
    """The summary of a Job; None if it lacks our labels. Never raises."""
    return guarded(_job, document)


def pod_summary(document: Any) -> PodSummary | Unreadable | None:
    """The summary of a pod; None if it lacks our labels. Never raises."""
    return guarded(_pod, document)


def guarded(reduce: Callable[[Document], T | None], document: Any) -> T | Unreadable | None:
    """What `reduce` makes of an object. Never raises: any user may write labels, and an object that cannot be read must not stop
    the watch for all others.
    """
    try:
        return reduce(document)
    except _UnreadableError as error:
        return Unreadable(error.reason, identity(document))
    except Exception:  # a fault here would end the watch of the whole cluster
        return Unreadable("Malformed", identity(document))


def identity(document: Any) -> tuple[str, str, str]:
    """Namespace, name and UID, as far as they can be read."""
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    found = metadata if isinstance(metadata, Mapping) else {}
    namespace, name, uid = (str(found.get(key, ""))[:MAX_NAME] for key in ("namespace", "name", "uid"))
    return namespace, name, uid


def _job(document: Document) -> JobSummary | None:
    metadata, spec, status = (_mapping(document.get(key)) for key in ("metadata", "spec", "status"))
    labels, annotations = _mapping(metadata.get("labels")), _mapping(metadata.get("annotations"))
    if not _is_ours(labels):
        return None
    conditions = {kind: each for kind, each in _conditions(status).items() if each.get("status") == "True"}
    failure = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    complete = "Complete" in conditions or "SuccessCriteriaMet" in conditions
    created_at = _seconds(metadata.get("creationTimestamp")) or 0.0
    return JobSummary(
        **_common(metadata, labels),
        owner_uid=_text(_owner(metadata), "uid"),
        parallelism=_whole(1 if spec.get("parallelism") is None else spec["parallelism"]),
        created_at=created_at,
        one_suffices=any(
            rule.get("succeededCount") == 1 for rule in _items(_mapping(spec.get("successPolicy")).get("rules"))
        ),
        seen_at=created_at,
        complete=complete,
        failing=bool(failure) and not complete,
        over="Complete" in conditions or "Failed" in conditions,
        reason=_text(failure, "reason"),
        message=_text(failure, "message"),
        started_at=_seconds(status.get("startTime")),
        ended_at=_job_end(metadata, status, failure),
        suspended=spec.get("suspend") is True,
        deleted="deletionTimestamp" in metadata,
        queue=_text(labels, "kueue.x-k8s.io/queue-name") or _text(annotations, QUEUE_ANNOTATION),
        workload=_text(annotations, WORKLOAD_ANNOTATION),
        pod_group=_pod_group(spec),
        queued_at=_seconds(annotations.get(QUEUED_ANNOTATION)),
        unhealthy_nodes=_text(annotations, MOVED_ANNOTATION),
    )


def _pod_group(spec: Document) -> str:
    template = _mapping(_mapping(spec.get("template")).get("spec"))
    return _text(_mapping(template.get("schedulingGroup")), "podGroupName")


def _job_end(metadata: Document, status: Document, failure: Document) -> float | None:
    """When a Job ended, was deleted, or went back into its queue; None while it may have pods."""
    suspended = _conditions(status).get("Suspended", {})
    ends = (
        status.get("completionTime"),
        failure.get("lastTransitionTime"),
        suspended.get("lastTransitionTime") if suspended.get("status") == "True" else None,
        metadata.get("deletionTimestamp"),
    )
    return next((_seconds(time) for time in ends if time), None)


def _pod(document: Document) -> PodSummary | None:
    metadata, spec, status = (_mapping(document.get(key)) for key in ("metadata", "spec", "status"))
    labels = _mapping(metadata.get("labels"))
    if not _is_ours(labels):
        return None
    conditions, owner = _conditions(status), _owner(metadata)
    owned_by_job = owner.get("kind") == "Job"
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    created_at, container = _seconds(metadata.get("creationTimestamp")) or 0.0, _container(status)
    return PodSummary(
        **_common(metadata, labels),
        job_uid=_text(owner if owned_by_job else labels, "uid" if owned_by_job else JOB_UID_LABEL),
        job_name=_text(owner, "name") if owned_by_job else "",
        run_uid=_text(labels, RUN_UID_LABEL),
        index=_count(labels.get(INDEX_LABEL, "0"), "InvalidIndex"),
        phase=_text(status, "phase") or "Pending",
        created_at=created_at,
        seen_at=created_at,
        node=_text(spec, "nodeName"),
        ready=ready.get("status") == "True",
        not_ready_since=_seconds(ready.get("lastTransitionTime")) if ready.get("status") == "False" else None,
        deleted_at=_seconds(metadata.get("deletionTimestamp")),
        grace_s=_whole(metadata.get("deletionGracePeriodSeconds") or 0),
        disruption=_text(disruption, "reason") if disruption.get("status") == "True" else "",
        scheduled_at=_seconds(scheduled.get("lastTransitionTime") if scheduled.get("status") == "True" else None),
        unschedulable=_text(scheduled, "message") if scheduled.get("status") == "False" else "",
        end_seen_at=container.get("finished_at"),
        running_at=container.get("started_at"),
        **container,
    )


def _common(metadata: Document, labels: Document) -> dict[str, Any]:
    """The fields that Jobs and pods share."""
    version = _text(metadata, "resourceVersion")
    _number(version, "Malformed")
    entry = _text(labels, STAGE_LABEL)
    stage, _, step = entry.partition("-")
    if stage not in _STAGES or (step and (stage != Stage.LABEL or step not in LABEL_STEPS)):
        raise _UnreadableError("InvalidStage")
    found = {key: _text(metadata, key) for key in ("namespace", "name", "uid")}
    if not all(found.values()):
        raise _UnreadableError("Malformed")
    return {
        **found,
        "version": version,
        "run": _text(labels, RUN_LABEL),
        "stage": entry,
        "attempt": _count(labels.get(ATTEMPT_LABEL), "InvalidAttempt"),
    }


def _container(status: Document) -> dict[str, Any]:
    """The state of a pod's program. Sidecars that a cluster adds come after our container or succeed."""
    found: dict[str, Any] = {"reason": _text(status, "reason"), "message": _text(status, "message")}
    for container in (*_items(status.get("initContainerStatuses")), *_items(status.get("containerStatuses"))):
        state = _mapping(container.get("state"))
        if state.get("waiting") is not None and "waiting" not in found:
            waiting = _mapping(state["waiting"])
            found |= {"waiting": _text(waiting, "reason"), "waiting_message": _text(waiting, "message")}
        if state.get("running") is not None:
            found.setdefault("started_at", _seconds(_mapping(state["running"]).get("startedAt")))
        if state.get("terminated") is not None and not found.get("exit_code"):
            found |= _terminated(_text(container, "name"), _mapping(state["terminated"]), found)
    return found


def _terminated(name: str, ended: Document, pod: Document) -> dict[str, Any]:
    reason, code = _text(ended, "reason"), ended.get("exitCode")
    return {
        "container": name,
        "exit_code": None if code is None or reason in INVENTED_ENDS else _whole(code),
        "reason": pod["reason"] or reason,
        "message": _text(ended, "message") or pod["message"],
        "started_at": _seconds(ended.get("startedAt")),
        "finished_at": _seconds(ended.get("finishedAt")),
    }


def _is_ours(labels: Document) -> bool:
    return {RUN_LABEL, STAGE_LABEL, ATTEMPT_LABEL} <= labels.keys()


def _owner(metadata: Document) -> Document:
    """The owner that controls an object; empty if it has none."""
    return next((owner for owner in _items(metadata.get("ownerReferences")) if owner.get("controller") is True), {})


def _conditions(status: Document) -> dict[str, Document]:
    return {_text(each, "type"): each for each in _items(status.get("conditions"))}


def _mapping(value: Any) -> Document:
    """An object; empty for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _UnreadableError("Malformed")
    return value


def _items(value: Any) -> list[Document]:
    """A list of objects; empty for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _UnreadableError("Malformed")
    return [_mapping(each) for each in value]


def _text(document: Document, key: str) -> str:
    """A string of at most MAX_MESSAGE characters; empty for null."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _UnreadableError("Malformed")
    return value[:MAX_MESSAGE]


def _whole(value: Any) -> int:
    """An integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _UnreadableError("Malformed")
    return value


def _number(text: Any, reason: str) -> int:
    """A string of decimal digits as a number."""
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise _UnreadableError(reason)
    return int(text)


def _count(text: Any, reason: str) -> int:
    """Such a number as a status can hold: anybody may label an object with a larger one."""
    found = _number(text, reason)
    if found > MAX_COUNT:
        raise _UnreadableError(reason)
    return found


def _seconds(text: Any) -> float | None:
    """Kubernetes' time as seconds since the epoch."""
    if not text:
        return None
    if not isinstance(text, str):
        raise _UnreadableError("Malformed")
    return datetime.fromisoformat(text).timestamp()
