"""What it means for a run that the API server refuses one of its objects. Pure.

Whatever a person can correct names the object and has the server's own words, which name the field. What the document
says is wrong in every cluster: it waits for another document. What a cluster forbids may be allowed a moment later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from diht_k8s.api.reasons import Reason
from diht_k8s.controller.observe import RunProblem
from diht_k8s.kube.errors import ClusterError

_ADMISSION: Final = re.compile(r"denied (the )?request|failed (calling|to call) webhook|does not support dry run")
"""Words of webhooks and of admission policies, which answer with any status."""
_MALFORMED: Final = (400, 413, 415, 422)


def name_of(item: Mapping[str, Any]) -> str:
    """An object for a sentence: `Job r-train-1`."""
    return f"{item['kind']} {item['metadata']['name']}"


def refusal(error: ClusterError, subject: str) -> RunProblem | None:
    """What keeps a run from going on; None if its namespace is on its way out.

    Args:
        error: the API server's refusal to create an object.
        subject: the object, as `name_of` names it.

    Raises:
        ClusterError: the refusal says nothing that a person could act on.
    """
    words, says = error.message, f"the API server refuses {subject}: {error.message}"
    if error.is_terminating:
        return None
    if "exceeded quota" in words:
        return RunProblem(Reason.QUOTA_EXCEEDED, says)
    if error.status == 403 and " cannot " in words:
        return RunProblem(Reason.PERMISSION_DENIED, f"the operator may not do that: {words}: check its Role")
    if error.status == 403 or _ADMISSION.search(words):
        return RunProblem(Reason.POD_REFUSED, says)
    if error.is_not_found:
        return RunProblem(Reason.REFERENCE_MISSING, says)
    if error.status in _MALFORMED:
        return RunProblem(Reason.INVALID_SPEC, f"{says}: change the run document", until_changed=True)
    raise error
