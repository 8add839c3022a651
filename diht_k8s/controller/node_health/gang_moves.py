"""Moves of gangs away from nodes with faults, at their next checkpoint or at once. Pure.

A move is a restart by the infrastructure. Its pods are asked to end, so that they save the step that they are at, and
the next attempt keeps away from every node that has a fault then. A gang that comes to such a node all the same (no
other can take it) stays: it is not moved again for a fault that its Job knew of. An elastic one then goes on with fewer
nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diht_k8s.api.reasons import Reason
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.observe import ObservedAttempt, RunProblem
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import AttemptState

NODE_UNHEALTHY = "NodeUnhealthy"


@dataclass(frozen=True)
class PendingMove:
    """A gang that moves after its next checkpoint, because of a fault of its node."""

    job: str
    """UID of its Job."""
    step: int
    """of its newest checkpoint when the fault was noticed; -1 if it had none."""


@dataclass(frozen=True)
class MoveDecision:
    """The attempts, failed where their gang moves; and the move that waits for a checkpoint."""

    observed: list[ObservedAttempt]
    pending: PendingMove | None = None
    faults: tuple[NodeFault, ...] = ()
    """because of which gangs move or will."""


def decide_moves(
    observed: Sequence[ObservedAttempt],
    faults: Callable[[str], tuple[NodeFault, ...]],
    step: int | None,
    pending: PendingMove | None,
) -> MoveDecision:
    """Decide which gangs move away from their nodes.

    Args:
        observed: the attempts.
        faults: the faults of a node, urgent ones first.
        step: of the newest checkpoint that is known; None without one.
        pending: what the last call returned.
    """
    result, kept, found = list[ObservedAttempt](), None, list[NodeFault]()
    for each in observed:
        pod, fault = _worst(each, faults)
        if pod is None or fault is None or each.job is None:
            result.append(_with_faulty_nodes(each, faults))
            continue
        found.append(fault)
        newest = -1 if step is None else step
        since = pending if pending is not None and pending.job == each.job.uid else PendingMove(each.job.uid, newest)
        runs = each.attempt.state is AttemptState.RUNNING
        if runs and not fault.at_once and newest <= since.step:
            kept = since
            result.append(
                replace(
                    each,
                    problem=RunProblem(Reason.NODE_UNHEALTHY, _message(pod, fault, "moves at its next checkpoint")),
                )
            )
        else:
            result.append(_moved(each, pod, fault))
    return MoveDecision(result, kept, tuple(found))


def _with_faulty_nodes(observed: ObservedAttempt, faults: Callable[[str], tuple[NodeFault, ...]]) -> ObservedAttempt:
    """A gang all of whose pods run, with how many are on nodes without faults, if some are not."""
    attempt, job = observed.attempt, observed.job
    runs = attempt.is_gang and attempt.state is AttemptState.RUNNING and not attempt.ending
    starts = [pod.started_at for pod in observed.pods if pod.started_at is not None]
    healthy = sum(not faults(pod.node) for pod in observed.pods)
    if job is None or not runs or not starts or healthy == len(observed.pods):
        return observed
    return replace(observed, attempt=replace(attempt, faulty_since=max(starts), placed=healthy))


def _worst(
    observed: ObservedAttempt, faults: Callable[[str], tuple[NodeFault, ...]]
) -> tuple[PodSummary | None, NodeFault | None]:
    """The pod of a living gang that it has to move for, and the fault of its node."""
    attempt, job = observed.attempt, observed.job
    living = attempt.state in (AttemptState.PENDING, AttemptState.RUNNING)
    if not attempt.is_gang or not living or attempt.ending or job is None or job.deleted:
        return None, None
    known = job.unhealthy_nodes.split(",")
    there = [
        (pod, fault)
        for pod in observed.pods
        if pod.node and pod.node not in known and not pod.ended and pod.deleted_at is None
        for fault in faults(pod.node)
    ]
    return min(there, key=lambda item: not item[1].at_once, default=(None, None))


def _message(pod: PodSummary, fault: NodeFault, what: str) -> str:
    return one_line(f"node {fault.node} of pod {pod.name} has the {fault.description}: the gang {what}")


def _moved(observed: ObservedAttempt, pod: PodSummary, fault: NodeFault) -> ObservedAttempt:
    attempt = replace(
        observed.attempt,
        state=AttemptState.FAILED,
        active=max(1, observed.attempt.active),
        infrastructure=True,
        reason=NODE_UNHEALTHY,
        message=_message(pod, fault, "saves and moves"),
    )
    return replace(observed, attempt=attempt, failed_pod=pod)
