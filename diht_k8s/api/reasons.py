"""Types and reasons of a run's conditions: the one list that controller, `diht status`, docs and tests share.

A reason is for programs and does not change within an API version; the condition's message is for people and may.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self


def _explained(cls: Any, value: str, meaning: str) -> Any:
    member = str.__new__(cls, value)
    member._value_ = value
    member.meaning = meaning
    return member


class ConditionType(StrEnum):
    """The conditions of a run. Complete and Failed are final: once True they stay True."""

    meaning: str

    ACCEPTED = "Accepted", "whether the operator takes the run on"
    PROGRESSING = (
        "Progressing",
        "whether a stage runs or is about to; its reason is the run's state",
    )
    COMPLETE = "Complete", "True once every stage's output is committed"
    FAILED = "Failed", "True once the run ended badly; nothing starts again by itself"

    def __new__(cls, value: str, meaning: str) -> Self:
        """A string with a meaning for the reference page."""
        return _explained(cls, value, meaning)


class Reason(StrEnum):
    """Why a condition has its status."""

    meaning: str

    VALID = "Valid", "the run is well formed and its output is its own"
    INVALID_SPEC = (
        "InvalidSpec",
        "the spec names what does not exist, the API server refuses it, or the operator is older than the CRD: "
        "the message "
        "names the field",
    )
    NAME_CONFLICT = "NameConflict", "somebody else's object has the name of one of the run's children"
    BACKEND_MISSING = "BackendMissing", "the cluster does not serve the run's backend"

    INTERNAL_ERROR = "InternalError", "the operator failed unexpectedly and tries again: report message and log"

    PENDING = "Pending", "the next attempt's pods are not all there yet"
    QUEUED = "Queued", "the queue has not admitted the attempt yet"
    UNSCHEDULABLE = "Unschedulable", "no node takes a pod: the message quotes the scheduler"
    IMAGE_PULL_FAILED = "ImagePullFailed", "a node cannot pull the image"
    NODE_UNHEALTHY = "NodeUnhealthy", "a monitor reports a fault of a node: the gang saves and moves"
    REFERENCE_MISSING = (
        "ReferenceMissing",
        "a Secret, ConfigMap, volume claim, service account or kind of object does not exist",
    )
    QUOTA_EXCEEDED = "QuotaExceeded", "the namespace's quota refuses the Job or its pods"
    POD_REFUSED = (
        "PodRefused",
        "admission refuses the Job or its pods (Pod Security, LimitRange, a policy, a webhook)",
    )
    PERMISSION_DENIED = "PermissionDenied", "the operator lacks a right: the message names the rule"
    RUNNING = "Running", "the stage's programs run"
    CHECKPOINTING = "Checkpointing", "the programs were asked to stop and save what they can"
    RESTARTING = "Restarting", "an attempt ended badly; the next one resumes from what is committed"
    COMPUTED_ELSEWHERE = (
        "ComputedElsewhere",
        "another run computes the same training: this run waits for its result and holds no GPU",
    )
    SUSPENDED = "Suspended", "spec.suspend is true and nothing runs"

    COMPLETE = "Complete", "every stage's output is committed"
    USER_ERROR = "UserError", "the configuration is wrong (exit code 64, 2, 126 or 127): it would fail again"
    BAD_DATA = "BadData", "the data is damaged beyond the limit (exit code 65)"
    OUT_OF_MEMORY = "OutOfMemory", "the programs were killed for memory twice"
    RESTARTS_EXHAUSTED = "RestartsExhausted", "failurePolicy.maxRestarts is used up"
    INFRASTRUCTURE_RESTARTS_EXHAUSTED = (
        "InfrastructureRestartsExhausted",
        "failurePolicy.maxInfrastructureRestarts is used up",
    )
    DEADLINE_EXCEEDED = "DeadlineExceeded", "spec.activeDeadlineSeconds is over"
    STOPPED = "Stopped", "somebody else than the operator stopped the programs"
    NOT_FINISHED = "NotFinished", "the run has not ended"
    UNKNOWN = "Unknown", "a reason that this version does not know"

    def __new__(cls, value: str, meaning: str) -> Self:
        """A string with a meaning for the reference page."""
        return _explained(cls, value, meaning)

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        """A status that a newer operator wrote stays readable."""
        return cls.UNKNOWN
