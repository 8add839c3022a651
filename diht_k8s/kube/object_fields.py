"""Labels and annotations by which Jobs, pods and Workloads name their run, and fields of API objects, read from JSON
that anybody may have written. Pure.

A field has the expected type or is null; an object for which that does not hold is unreadable as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from diht_k8s.api.run import Stage
from diht_k8s.api.status import MAX_COUNT
from diht_k8s.api.steps import STEPS

RUN_LABEL: Final = "diht.dev/run"
STAGE_LABEL: Final = "diht.dev/stage"
"""The name of the entry in status.stages: `train`, `label-heads`, ..."""
ATTEMPT_LABEL: Final = "diht.dev/attempt"
RUN_UID_LABEL: Final = "diht.dev/run-uid"
"""Names the run of a pod that is left of a Job which no operator has seen."""
WORKLOAD_ANNOTATION: Final = "diht.dev/workload"
"""Name of the Workload on whose quota a Job runs."""
QUEUE_ANNOTATION: Final = "diht.dev/queue-name"
"""Name of that Workload's queue."""
QUEUED_ANNOTATION: Final = "diht.dev/queued-since"
"""When the Workload was created; on the Job of the first attempt, which did not exist while it waited."""
EXTRA_LABEL: Final = "diht.dev/extra-nodes"
"""On the Workload of the nodes beyond train.minNodes."""
QUOTA_ANNOTATION: Final = "diht.dev/quota-nodes"
"""On the Job of an elastic training: the nodes for which it had quota as it was made."""
SHAPE_ANNOTATION: Final = "diht.dev/shape"
"""Digest of the pods that a Workload asks quota for."""
UNHEALTHY_NODES_ANNOTATION: Final = "diht.dev/unhealthy-nodes"
"""Nodes that were known as unhealthy when a Job was created; its gang is not moved away from them again."""
RESIZES_ANNOTATION: Final = "diht.dev/resizes-in-place"
"""On the Job of a gang that goes on as nodes go and come, in the pods that live."""
INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
JOB_UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
"""Stays on a pod whose Job was deleted without it."""


MAX_MESSAGE: Final = 4096
MAX_NAME: Final = 253
MAX_DIGITS: Final = 20
"""A resourceVersion has 64 bits."""
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


class UnreadableError(Exception):
    """A field does not have the expected type or value."""

    def __init__(self, reason: str) -> None:
        """Make one; `reason` is one of UNREADABLE_REASONS."""
        super().__init__(reason)
        self.reason = reason


def guarded(reduce: Callable[[Document], T | None], document: Any) -> T | Unreadable | None:
    """The result of `reduce` for an object. Never raises: any user may write labels, and an object that cannot be read
    must not stop the watch for all others.
    """
    try:
        return reduce(document)
    except UnreadableError as error:
        return Unreadable(error.reason, identity(document))
    except Exception:  # a fault here would end the watch of the whole cluster
        return Unreadable("Malformed", identity(document))


def identity(document: Any) -> tuple[str, str, str]:
    """Namespace, name and UID, as far as they can be read."""
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    found = metadata if isinstance(metadata, Mapping) else {}
    namespace, name, uid = (str(found.get(key, ""))[:MAX_NAME] for key in ("namespace", "name", "uid"))
    return namespace, name, uid


def common_fields(metadata: Document, labels: Document) -> dict[str, Any]:
    """The fields that the summaries of Jobs and pods share.

    Raises:
        UnreadableError: a label or the metadata is not as the operator writes it.
    """
    version = text(metadata, "resourceVersion")
    number(version, "Malformed")
    entry = text(labels, STAGE_LABEL)
    stage, _, step = entry.partition("-")
    if stage not in _STAGES or (step and step not in STEPS.get(stage, ())):
        raise UnreadableError("InvalidStage")
    found = {key: text(metadata, key) for key in ("namespace", "name", "uid")}
    if not all(found.values()):
        raise UnreadableError("Malformed")
    return {
        **found,
        "version": version,
        "run": text(labels, RUN_LABEL),
        "stage": entry,
        "attempt": count(labels.get(ATTEMPT_LABEL), "InvalidAttempt"),
    }


def is_attempts_object(labels: Document) -> bool:
    """Whether an object has the labels of an attempt's Job or pod."""
    return {RUN_LABEL, STAGE_LABEL, ATTEMPT_LABEL} <= labels.keys()


def owner_of(metadata: Document) -> Document:
    """The owner that controls an object; empty if it has none."""
    return next((owner for owner in items(metadata.get("ownerReferences")) if owner.get("controller") is True), {})


def conditions_of(status: Document) -> dict[str, Document]:
    """The conditions of an object by their type."""
    return {text(each, "type"): each for each in items(status.get("conditions"))}


def mapping(value: Any) -> Document:
    """An object; empty for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnreadableError("Malformed")
    return value


def items(value: Any) -> list[Document]:
    """A list of objects; empty for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableError("Malformed")
    return [mapping(each) for each in value]


def text(document: Document, key: str) -> str:
    """A string of at most MAX_MESSAGE characters; empty for null."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableError("Malformed")
    return value[:MAX_MESSAGE]


def whole_number(value: Any) -> int:
    """An integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnreadableError("Malformed")
    return value


def number(value: Any, reason: str) -> int:
    """A string of decimal digits as a number."""
    if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise UnreadableError(reason)
    return int(value)


def count(value: Any, reason: str) -> int:
    """Such a number as a status can hold: anybody may label an object with a larger one."""
    found = number(value, reason)
    if found > MAX_COUNT:
        raise UnreadableError(reason)
    return found


def epoch_seconds(value: Any) -> float | None:
    """Kubernetes' time as seconds since the epoch."""
    if not value:
        return None
    if not isinstance(value, str):
        raise UnreadableError("Malformed")
    return datetime.fromisoformat(value).timestamp()
