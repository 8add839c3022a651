"""Nodes that the attempts of a stage avoid: counted by failed attempts and rounds, named in the Job's affinity. Pure.

It is a preference: if no other node can take a pod, the run resumes there rather than not at all (our choice).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.status import (
    AttemptStatus,
    FailedRounds,
    RestartsInPlace,
)
from diht_k8s.controller.observe import ObservedAttempt, entry_name
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.pod_summary import EVICTED
from diht_k8s.pipeline.failure_policy import is_never_retried
from diht_k8s.pipeline.run_status import Failure, StageRecord

FAILURES_TO_AVOID: Final = 2
"""Among the attempts and rounds that the status lists. One failure can be chance."""
MAX_AVOIDED: Final = 16
MAX_NODES: Final = 4
"""Nodes on which rounds failed that the status lists."""
MAX_WORD: Final = 63
NODE_FAULTS: Final = frozenset(
    {
        "NodeLost",
        "NodeUnhealthy",
        "DeletionByTaintManager",
        "TerminationByKubelet",
        EVICTED,
        "UnexpectedAdmissionError",
    }
)
"""Reasons of ends that the node caused and the program did not; a drain or a preemption is somebody's decision."""
_NODE_NAME: Final = "metadata.name"


def suspect_node(failure: Failure, observed: ObservedAttempt | None) -> str:
    """The node that a failure counts against; empty if the program, its data or a person caused it."""
    pod = observed.failed_pod if observed is not None else None
    if pod is None:
        return ""
    if failure.infrastructure:
        return pod.node if failure.reason in NODE_FAULTS else ""
    own = is_never_retried(failure) or failure.reason in ("OOMKilled", EVICTED) or failure.exit_code == ExitCode.STOPPED
    return "" if own or failure.computed_elsewhere else pod.node


def restarts_in_place(
    stage: StageRecord, written: RestartsInPlace | None, observed: Iterable[ObservedAttempt]
) -> RestartsInPlace | None:
    """The restarts in place of a stage, with the node of the newest one and how often rounds failed on it."""
    if not stage.total_in_place:
        return None
    found, old = stage.in_place, written or RestartsInPlace()
    if (old.attempt, old.restarts) == (found.attempt, found.restarts):
        return old.model_copy(update={"total": stage.total_in_place})
    entry = entry_name(stage.stage, stage.step)
    own = [each for each in observed if each.entry == entry and each.attempt.number == found.attempt]
    pod = next((pod for each in own for pod in each.pods if pod.index == found.index), None)
    node = pod.node if pod is not None else ""
    return RestartsInPlace(
        total=stage.total_in_place,
        attempt=found.attempt,
        restarts=found.restarts,
        exit_code=found.exit_code,
        message=one_line(found.message),
        pod=one_line(pod.name, MAX_WORD) if pod is not None else "",
        node=node,
        nodes=old.nodes if is_never_retried(Failure(found.exit_code)) else _with_round(old.nodes, node),
    )


def _with_round(nodes: Sequence[FailedRounds], node: str) -> list[FailedRounds]:
    """One more round that failed on a node; rounds that nobody observed count against none."""
    if not node:
        return list(nodes)
    rounds = next((each.rounds for each in nodes if each.node == node), 0)
    others = [each for each in nodes if each.node != node]
    return [*others, FailedRounds(node=node, rounds=rounds + 1)][-MAX_NODES:]


def nodes_to_avoid(
    before: Iterable[str], attempts: Iterable[AttemptStatus], entry: str, in_place: RestartsInPlace | None = None
) -> list[str]:
    """The nodes that the next attempt of a stage avoids, oldest first.

    Args:
        before: the nodes avoided so far.
        attempts: the attempts that the status lists.
        entry: the stage's name in status.stages.
        in_place: the stage's restarts in place.
    """
    failures = Counter(attempt.node for attempt in attempts if attempt.stage == entry and attempt.node)
    if in_place is not None:
        failures.update({each.node: each.rounds for each in in_place.nodes})
    bad = [node for node, times in failures.items() if times >= FAILURES_TO_AVOID]
    return list(dict.fromkeys([*before, *bad]))[-MAX_AVOIDED:]


def prefer_other_nodes(job: dict[str, Any], nodes: Sequence[str]) -> None:
    """Make the pods of a Job prefer other nodes, in addition to its own affinity."""
    if not nodes:
        return
    fields = [{"key": _NODE_NAME, "operator": "NotIn", "values": [node]} for node in nodes]
    affinity = job["spec"]["template"]["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    terms = affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
    terms.append({"weight": 100, "preference": {"matchFields": fields}})
