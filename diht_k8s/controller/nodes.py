"""Nodes that attempts avoid: which node a failure counts against, and how a Job asks for others. Pure.

It is a preference: if no other node can take a pod, the run resumes there rather than not at all (our choice).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.status import AttemptStatus
from diht_k8s.controller.observe import ObservedAttempt
from diht_k8s.pipeline.plan import is_never_retried
from diht_k8s.pipeline.states import Failure

FAILURES_TO_AVOID: Final = 2
"""Among the attempts that the status lists. One failure can be chance."""
MAX_AVOIDED: Final = 16
NODE_FAULTS: Final = frozenset({
    "NodeLost", "DeletionByTaintManager", "TerminationByKubelet", "Evicted", "UnexpectedAdmissionError",
})  # fmt: skip
"""Reasons of ends that the node caused and the program did not; a drain or a preemption is somebody's decision."""
_NODE_NAME: Final = "metadata.name"


def suspect_node(failure: Failure, observed: ObservedAttempt | None) -> str:
    """The node that a failure counts against; empty if the program, its data or a person caused it."""
    pod = observed.failed_pod if observed is not None else None
    if pod is None:
        return ""
    if failure.infrastructure:
        return pod.node if failure.reason in NODE_FAULTS else ""
    own = is_never_retried(failure) or failure.reason == "OOMKilled" or failure.exit_code == ExitCode.STOPPED
    return "" if own else pod.node


def avoided(before: Iterable[str], attempts: Iterable[AttemptStatus], entry: str) -> list[str]:
    """The nodes that the next attempt of a stage avoids, oldest first.

    Args:
        before: the nodes avoided so far.
        attempts: the attempts that the status lists.
        entry: the stage's name in status.stages.
    """
    failures = Counter(attempt.node for attempt in attempts if attempt.stage == entry and attempt.node)
    bad = [node for node, times in failures.items() if times >= FAILURES_TO_AVOID]
    return list(dict.fromkeys([*before, *bad]))[-MAX_AVOIDED:]


def keep_away(job: dict[str, Any], nodes: Sequence[str]) -> None:
    """Make the pods of a Job prefer other nodes, in addition to its own affinity."""
    if not nodes:
        return
    fields = [{"key": _NODE_NAME, "operator": "NotIn", "values": [node]} for node in nodes]
    affinity = job["spec"]["template"]["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    terms = affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
    terms.append({"weight": 100, "preference": {"matchFields": fields}})
