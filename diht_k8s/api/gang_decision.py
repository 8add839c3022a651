"""The operator's decision without which nodes a gang goes on in its living pods, as launcher 0 reads it. Pure.

It is a value and no call: an annotation of pod 0, which the kubelet writes into a file of that pod. Whatever is
missed is read again, and ends with the pod, so that no later attempt finds it.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

DECISION_ANNOTATION: Final = "diht.dev/gang"
"""Annotation of pod 0."""
DECISION_FOLDER: Final = "/etc/diht"
DECISION_FILE: Final = "gang"
"""In that folder: the annotation."""
DECISION_VARIABLE: Final = "DIHT_GANG_FILE"
"""In the environment of a gang that resizes in its living pods: the path of that file."""


class GangDecision(BaseModel):
    """Which nodes are no part of a gang."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    without: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = ()
    """completion indexes of their pods, in order."""
    at: float = 0.0
    """when it was decided, seconds since the epoch."""


def decision_in(text: str) -> GangDecision | None:
    """The decision in an annotation or a file; None if there is none."""
    try:
        return GangDecision.model_validate_json(text)
    except ValueError:
        return None
