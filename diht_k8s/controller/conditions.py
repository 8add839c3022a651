"""The conditions of a run: Accepted, Progressing, Complete, Failed. Pure.

lastTransitionTime moves only with the condition's status; observedGeneration names the spec that it describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from diht_k8s.api.base import timestamp
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import Spec
from diht_k8s.api.status import Condition, StageState, Status
from diht_k8s.controller.observe import ObservedAttempt, RunProblem, entry_name
from diht_k8s.controller.saved_status import condition
from diht_k8s.controller.status_text import one_line
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.elasticity import expected_resizing
from diht_k8s.pipeline.run_status import ENDED_WELL, RunState, RunStatus, StageRecord

NOT_ACCEPTED: Final = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.BACKEND_MISSING,
        Reason.INTERNAL_ERROR,
    }
)
"""Problems that keep the operator from accepting the run."""
_ENDED_BADLY: Final = frozenset({RunState.FAILED, RunState.STOPPED})
_Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class _Claim:
    status: _Truth
    reason: Reason
    message: str = ""


def conditions(
    previous: Status,
    run: RunStatus,
    current: ObservedAttempt | None,
    problem: RunProblem | None,
    *,
    pausing: bool,
    generation: int,
    now: float,
    spec: Spec | None = None,
    by_quota: bool = False,
) -> list[Condition]:
    """All four conditions.

    Args:
        previous: the status that the run has.
        run: the status that the plan decided on.
        current: the newest attempt of the current stage.
        problem: what blocks the operator, apart from what its pods show.
        pausing: whether the run was asked to stop.
        generation: metadata.generation of the run.
        now: seconds since the epoch.
        spec: of the run; None of one that cannot be read, or is not accepted.
        by_quota: whether its newest attempt gave way as its quota changed.
    """
    claims = {
        ConditionType.ACCEPTED: _accepted(problem),
        ConditionType.PROGRESSING: _progressing(run, current, problem, spec, pausing=pausing, by_quota=by_quota),
        ConditionType.COMPLETE: _complete(run),
        ConditionType.FAILED: _failed(run),
    }
    return [_condition(previous, kind, claim, generation, now) for kind, claim in claims.items()]


def _condition(previous: Status, kind: ConditionType, claim: _Claim, generation: int, now: float) -> Condition:
    before = condition(previous, kind)
    kept = before is not None and before.status == claim.status
    return Condition(
        type=kind,
        status=claim.status,
        reason=claim.reason,
        message=one_line(claim.message),
        last_transition_time=before.last_transition_time if kept and before is not None else timestamp(now),
        observed_generation=generation,
    )


def _accepted(problem: RunProblem | None) -> _Claim:
    if problem is not None and problem.reason in NOT_ACCEPTED:
        return _Claim("False", problem.reason, problem.message)
    return _Claim("True", Reason.VALID)


def _complete(run: RunStatus) -> _Claim:
    if run.state is RunState.COMPLETE:
        return _Claim("True", Reason.COMPLETE, "every stage's output is committed")
    return _Claim("False", Reason.NOT_FINISHED)


def _failed(run: RunStatus) -> _Claim:
    if run.state in _ENDED_BADLY:
        return _Claim("True", run.reason or Reason.UNKNOWN, run.message)
    return _Claim("False", Reason.NOT_FINISHED)


def _progressing(
    run: RunStatus,
    current: ObservedAttempt | None,
    problem: RunProblem | None,
    spec: Spec | None,
    *,
    pausing: bool,
    by_quota: bool,
) -> _Claim:
    if run.state is RunState.COMPLETE:
        return _Claim("False", Reason.COMPLETE)
    if run.state in _ENDED_BADLY:
        return _Claim("False", run.reason or Reason.UNKNOWN, run.message)
    if problem is not None and problem.reason in NOT_ACCEPTED:
        return _Claim("False", problem.reason, problem.message)
    if run.state is RunState.SUSPENDED:
        return _Claim("False", Reason.SUSPENDED, "spec.suspend is true: set it to false to resume")
    stage = next((stage for stage in run.stages if stage.state not in ENDED_WELL), None)
    if stage is None:
        return _Claim("True", Reason.PENDING)
    if pausing:
        return _Claim("True", Reason.CHECKPOINTING, f"{_name(stage)}: asked to stop and save what it can")
    return _under_way(stage, current, problem, spec, by_quota=by_quota)


def _under_way(
    stage: StageRecord,
    current: ObservedAttempt | None,
    problem: RunProblem | None,
    spec: Spec | None,
    *,
    by_quota: bool,
) -> _Claim:
    name, failure = _name(stage), stage.failure.message if stage.failure else ""
    if stage.state is StageState.RESTARTING and stage.nodes is not None:
        why = _why_it_gives_way(stage.nodes, current, by_quota=by_quota)
        message = f"{name}: attempt {stage.attempt} gives way to one on {stage.nodes} nodes: {why}"
        return _Claim("True", Reason.RESTARTING, message)
    if stage.state is StageState.RESTARTING and not stage.computed_elsewhere:
        when = f" at {timestamp(stage.not_before)}" if stage.not_before is not None else ""
        message = f"{name}: attempt {stage.attempt} ended: {failure}; the next one starts{when}"
        return _Claim("True", Reason.RESTARTING, message)
    if problem is not None:
        return _Claim("True", problem.reason, f"{name}: {problem.message}")
    observed = current.problem if current is not None else None
    if stage.computed_elsewhere:
        also = f"; attempt {stage.attempt}, which waits for that: {observed.message}" if observed is not None else ""
        why = failure.partition(": ")[0]  # what a person would have to do, the operator does
        return _Claim("True", Reason.COMPUTED_ELSEWHERE, f"{name}: {why}, and this run waits for its end{also}")
    if current is not None and current.job is not None and current.attempt.state is AttemptState.RUNNING:
        also = f"; {observed.message}" if observed is not None else ""
        nodes, wished = current.nodes, _wished(spec)
        fewer = f" on {nodes} of {wished} nodes" if current.attempt.is_gang and nodes < wished else ""
        goes_on = _outlook(spec, current.attempt) if spec is not None else ""
        return _Claim("True", Reason.RUNNING, f"{name}: attempt {stage.attempt} runs{fewer}{goes_on}{also}")
    if observed is not None:
        outlook = _outlook(spec, current.attempt) if spec is not None and current is not None else ""
        return _Claim("True", observed.reason, f"{name}: {outlook}{observed.message}")
    if stage.failure is not None:
        return _Claim("True", Reason.RESTARTING, f"{name}: attempt {stage.attempt} starts, after: {failure}")
    return _Claim("True", Reason.PENDING, f"{name}: attempt {stage.attempt} starts")


def _why_it_gives_way(nodes: int, current: ObservedAttempt | None, *, by_quota: bool) -> str:
    """Why the gang of an elastic training gives way to one on other nodes."""
    grows = current is not None and current.job is not None and current.job.parallelism < nodes
    if by_quota:
        return "its queue has quota for them" if grows else "its queue took the quota of the others"
    if grows:
        return "none has room for its pods by now"
    faulty = current is not None and current.attempt.faulty_since is not None
    return "the others have faults" if faulty else "no more have room"


def _wished(spec: Spec | None) -> int:
    """The nodes that an elastic training wishes for; 0 of any other run."""
    train = spec.train if spec is not None else None
    return train.num_nodes if train is not None and train.min_nodes is not None else 0


def _outlook(spec: Spec, attempt: Attempt) -> str:
    """What becomes of an elastic gang of which pods find no node, if that stays so, to stand before the scheduler's
    words; or find only faulty ones.
    """
    train, policy = spec.train, spec.failure_policy
    if train is None or train.min_nodes is None:
        return ""
    if (expected := expected_resizing(train, policy, attempt)) is not None:
        at, nodes = expected
        if attempt.faulty_since is not None:
            return f"; goes on with {nodes} of {train.num_nodes} nodes at {timestamp(at)}: the others have faults"
        if attempt.partially_started_at is None:
            return f"asks for all {nodes} nodes again at {timestamp(at)} unless one has room: "
        return f"goes on with {nodes} of {train.num_nodes} nodes at {timestamp(at)} unless more have room: "
    if (since := attempt.partially_started_at) is None:
        return ""
    until = timestamp(since + policy.scheduling_timeout_seconds)
    return (
        f"cannot go on with {attempt.placed} of {train.num_nodes} nodes, and gives them back at {until} unless "
        f"more have room: "
    )


def _name(stage: StageRecord) -> str:
    return entry_name(stage.stage, stage.step)
