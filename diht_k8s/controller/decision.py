"""Decide: what a run needs next, from what was observed of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from diht_k8s.controller.kueue.admission import CreateWorkload, WorkloadAction
from diht_k8s.controller.kueue.extra_nodes import quota_of
from diht_k8s.controller.kueue.queued_plan import queued_plan
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.node_health.gang_moves import PendingMove, decide_moves
from diht_k8s.controller.observation import Observation
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, with_logged_progress
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Action, Observed, Start, plan
from diht_k8s.pipeline.run_status import RunStatus

FIRST_WAIT_S: Final = 1.0
MOST_WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Blocked:
    """What blocked the last actions of a run."""

    problem: RunProblem | None = None
    generation: int = 0
    """of the document that had it."""
    count: int = 0
    """reconciliations in a row that were blocked."""

    def next(self, problem: RunProblem | None, generation: int) -> Blocked:
        """After actions that this problem blocks, or none."""
        return Blocked(problem, generation, self.count + 1) if problem is not None else Blocked()

    def refusal(self, generation: int) -> RunProblem | None:
        """Why nothing of a document is created: its objects were refused as they are, and are not sent again."""
        known = self.problem is not None and self.problem.until_changed and self.generation == generation
        return self.problem if known else None

    @property
    def try_again_s(self) -> float | None:
        """Seconds after which to try again; None waits for a change."""
        if self.problem is None or self.problem.until_changed:
            return None
        return min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.count - 1, 8))


@dataclass(frozen=True)
class Decision:
    """What is done about a run, and the status that it gets."""

    status: RunStatus
    attempts: list[ObservedAttempt]
    """those that exist, failed where their gang moves to other nodes."""
    waiting: tuple[ObservedAttempt, ...] = ()
    """the attempt that waits in a queue."""
    actions: tuple[Action, ...] = ()
    workload_actions: tuple[WorkloadAction, ...] = ()
    problem: RunProblem | None = None
    """what blocks the run whatever comes of the actions."""
    wake_at: float | None = None
    """seconds since the epoch at which to decide again even if nothing changes."""
    move: PendingMove | None = None
    """the gang that moves after its next checkpoint."""
    faults: tuple[NodeFault, ...] = ()
    """because of which gangs move or will."""


def decide(seen: Observation, blocked: Blocked, move: PendingMove | None, jitter: float) -> Decision:
    """Decide what a run needs.

    Args:
        seen: what was observed.
        blocked: what blocked the last actions.
        move: the gang that was to move after its next checkpoint.
        jitter: a random number from 0 to 1, by which waits before restarts differ.
    """
    moves = decide_moves(seen.attempts, lambda node: seen.faults.get(node, ()), _newest_step(seen), move)
    attempts = [replace(each, attempt=with_logged_progress(each, seen.logged)) for each in moves.observed]
    facts = Observed(
        attempts=tuple(each.attempt for each in attempts),
        quota=quota_of(seen.run, seen.workloads),
        retry_requested=bool(seen.cached.retry) and seen.cached.retry == seen.cached.status.completion_time,
    )
    planned = plan(seen.run, facts, seen.now, status=seen.before, back_off=BackOff(jitter=jitter), steps=CLUSTER_STEPS)
    queued = queued_plan(seen.cached, seen.run, planned, attempts, seen.workloads, seen.workloads_absent, seen.now)
    actions, workload_actions, problem = queued.plan.actions, queued.actions, queued.problem
    if (refused := blocked.refusal(seen.cached.generation)) is not None:
        actions = tuple(each for each in queued.plan.actions if not isinstance(each, Start))
        workload_actions = tuple(each for each in queued.actions if not isinstance(each, CreateWorkload))
        problem = problem or refused
    return Decision(
        queued.plan.status,
        moves.observed,
        queued.waiting,
        actions,
        workload_actions,
        problem,
        queued.plan.wake_at,
        moves.pending,
        moves.faults,
    )


def _newest_step(seen: Observation) -> int | None:
    """The step of the newest checkpoint that is known."""
    said = seen.logged.progress.checkpoint if seen.logged is not None else None
    written = seen.cached.status.last_checkpoint
    return max((each.step for each in (said, written) if each is not None), default=None)
