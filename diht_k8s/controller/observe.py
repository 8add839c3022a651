"""Jobs and pods of one run in; attempts for the plan, and what a person wants to know about the newest, out. Pure.

The Job controller decides whether an attempt failed (it applies the pod failure policy), with one exception: it would wait
for lost pods (of nodes that are not ready), so they are found here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Cause
from diht_k8s.api.run import Stage
from diht_k8s.controller.text import last_line, one_line
from diht_k8s.kube.summaries import JobSummary, PodSummary
from diht_k8s.pipeline.plan import is_never_retried
from diht_k8s.pipeline.states import Attempt, AttemptState, Failure

LOST_AFTER_S: Final = 300.0
"""A pod that ran and has not been ready for this time is lost even if nothing evicts it (Kubernetes' own default). A lost
node is found much sooner, by the eviction that its taint causes (30 s, see the pods' tolerations). A shorter time would count
pods as lost when the API server was away for a minute: then all nodes seem lost, and none is."""
GONE_AFTER_S: Final = 30.0
"""A pod that still exists this long after its deletion time has no kubelet that could remove it."""
SETTLE_S: Final = 2.0
"""Peers of a failed pod fail within moments; their times show who was first once all have ended."""
ASK_EVENTS_AFTER_S: Final = 5.0
"""Pods that do not exist or have not started after this time may have a reason that only events tell."""
DISRUPTED: Final = "DisruptionTarget"
"""Kubernetes' condition of a pod that was preempted, drained or evicted; the Job controller names it in the Job's message."""
SIGNALS: Final = 128
"""What a shell and a container runtime add to the number of the signal that killed a program."""
GANGS: Final = frozenset({Stage.TRAIN})
PULL_PROBLEMS: Final = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable",
})  # fmt: skip
CONFIG_PROBLEMS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})


@dataclass(frozen=True)
class RunProblem:
    """What keeps a run or its pods from running, for a condition."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class ObservedAttempt:
    """One attempt: what the plan needs, and the objects behind it."""

    attempt: Attempt
    job: JobSummary | None
    pods: tuple[PodSummary, ...]
    failed_pod: PodSummary | None = None
    """the pod that failed first."""
    problem: RunProblem | None = None
    """why its pods do not all run."""
    ask_events: str = ""
    """uid of the object whose events may tell more; empty if nothing is unclear."""
    lost: tuple[str, ...] = ()
    """names of lost pods (node not ready)."""
    settles_at: float | None = None
    """when it is clear which pod failed first."""

    @property
    def entry(self) -> str:
        """The name of its entry in status.stages."""
        return entry_name(self.attempt.stage, self.attempt.step)


def entry_name(stage: Stage, step: str = "") -> str:
    """The name of an entry in status.stages: `train`, `label-heads`."""
    return f"{stage}-{step}" if step else stage.value


def entry_parts(name: str) -> tuple[Stage, str]:
    """The stage and step of an entry's name."""
    stage, _, step = name.partition("-")
    return Stage(stage), step


def observe_attempts(
    jobs: Iterable[JobSummary],
    pods: Iterable[PodSummary],
    now: float,
    *,
    known: Mapping[str, int],
    pausing: bool = False,
) -> list[ObservedAttempt]:
    """The attempts of a run.

    Args:
        jobs: the run's own Jobs.
        pods: pods with the run's label, also those of other owners.
        now: seconds since the epoch.
        known: number of the newest attempt by entry in status.stages; pods without a Job belong to the run up to that number.
        pausing: whether programs were asked to stop, so that their end is no failure.
    """
    by_attempt: dict[tuple[str, int], tuple[JobSummary | None, list[PodSummary]]] = {}
    uids: dict[str, tuple[str, int]] = {}
    for job in jobs:
        uids[job.uid] = (job.stage, job.attempt)
        by_attempt[job.stage, job.attempt] = (job, [])
    for pod in pods:
        key = uids.get(pod.job_uid)
        if key is not None:
            by_attempt[key][1].append(pod)
        elif not pod.ended and pod.attempt <= known.get(pod.stage, 0) and (pod.stage, pod.attempt) not in by_attempt:
            by_attempt[pod.stage, pod.attempt] = (None, [pod])
        elif (pod.stage, pod.attempt) in by_attempt and by_attempt[pod.stage, pod.attempt][0] is None:
            by_attempt[pod.stage, pod.attempt][1].append(pod)
    observed = (
        _observe_attempt(stage, number, job, sorted(own, key=_order), now, pausing=pausing)
        for (stage, number), (job, own) in sorted(by_attempt.items())
    )
    return [attempt for attempt in observed if attempt is not None]


def _order(pod: PodSummary) -> tuple[int, float, str]:
    return pod.index, pod.created_at, pod.name


def is_lost(pod: PodSummary, now: float) -> bool:
    """Whether a pod is lost: its node is not ready, though its containers may still run."""
    if pod.ended:
        return False
    if pod.deleted_at is not None and now >= pod.deleted_at + GONE_AFTER_S:
        return True
    if pod.started_at is None or pod.not_ready_since is None or pod.exit_code is not None:
        return False
    return bool(pod.disruption) or now >= pod.not_ready_since + LOST_AFTER_S


def _observe_attempt(
    entry: str, number: int, job: JobSummary | None, pods: list[PodSummary], now: float, *, pausing: bool
) -> ObservedAttempt | None:
    stage, step = entry_parts(entry)
    lost = tuple(pod for pod in pods if is_lost(pod, now))
    active = sum(not pod.ended and pod not in lost for pod in pods)
    base = Attempt(stage, number, AttemptState.RUNNING, active=active, step=step)
    if job is None:  # somebody removed the Job; its pods follow
        return ObservedAttempt(replace(base, ending=True), None, tuple(pods)) if active else None
    observed = ObservedAttempt(base, job, tuple(pods), lost=tuple(pod.name for pod in lost))
    if (
        job.deleted and lost and not active
    ):  # nothing can remove the rest of it: the wait would last as long as the node is away
        return _lost(observed, lost[0])
    if job.deleted:
        return replace(observed, attempt=replace(base, active=max(1, active), ending=True))
    if job.complete:
        return replace(observed, attempt=replace(base, state=AttemptState.SUCCEEDED, ending=True))
    if job.failing or lost:
        return _observe_failure(observed, job, pods, lost, now, pausing=pausing)
    return _observe_living(observed, job, pods, now)


def _observe_failure(
    observed: ObservedAttempt,
    job: JobSummary,
    pods: list[PodSummary],
    lost: tuple[PodSummary, ...],
    now: float,
    *,
    pausing: bool,
) -> ObservedAttempt:
    """Who failed first, why, and whether it was the program's fault."""
    attempt = replace(observed.attempt, state=AttemptState.FAILED, ending=job.failing and not lost)
    first = min((pod for pod in pods if _has_failed(pod)), key=_blame, default=None)
    disrupted = next((pod for pod in pods if pod.disruption), None)
    if first is not None and is_never_retried(_failure(first)):
        return _blamed(observed, attempt, first, infrastructure=False)
    if lost:
        return _lost(replace(observed, attempt=attempt), lost[0])
    if first is not None and disrupted is None and attempt.active and (settles_at := _settles_at(first, now)):
        return replace(observed, attempt=replace(attempt, state=AttemptState.RUNNING), settles_at=settles_at)
    # A drained pod is deleted as soon as the Job controller has counted it; the message of the Job stays.
    drained = DISRUPTED in job.message
    if first is None:
        return replace(observed, attempt=_removed(attempt, job, drained=drained))
    if disrupted is not None or drained or _was_stopped(first, pausing=pausing):
        return _blamed(observed, attempt, disrupted or first, infrastructure=True, drained=drained)
    return _blamed(observed, attempt, first, infrastructure=False)


def _has_failed(pod: PodSummary) -> bool:
    return pod.phase == "Failed" or (pod.exit_code or 0) != 0


def _settles_at(first: PodSummary, now: float) -> float | None:
    """When it is clear who failed first; None if it already is, or if the clock was set back."""
    if first.finished_at is None or not first.finished_at <= now < first.finished_at + SETTLE_S:
        return None
    return first.finished_at + SETTLE_S


def _removed(attempt: Attempt, job: JobSummary, *, drained: bool) -> Attempt:
    """A failed attempt without any pod that failed: its pods were removed."""
    message = one_line(job.message) or "a pod was removed"
    return replace(attempt, infrastructure=True, reason=DISRUPTED if drained else "PodRemoved", message=message)


def _was_stopped(pod: PodSummary, *, pausing: bool) -> bool:
    """Whether something other than us ended a pod: it has no exit code, or the code of a request that we did not make."""
    return pod.exit_code is None or (pod.exit_code == ExitCode.STOPPED and not pausing)


def _lost(observed: ObservedAttempt, pod: PodSummary) -> ObservedAttempt:
    message = f"pod {pod.name} on node {pod.node} is lost (node not ready)"
    attempt = replace(
        observed.attempt, state=AttemptState.FAILED, infrastructure=True, reason="NodeLost", message=message
    )
    return replace(observed, attempt=attempt, failed_pod=pod)


def _blame(pod: PodSummary) -> tuple[bool, bool, float, int]:
    """Sort key: pods that would fail again first, stopped pods last, otherwise the pod that failed first."""
    code = pod.exit_code
    return (
        not is_never_retried(_failure(pod)),
        code == ExitCode.STOPPED,
        pod.finished_at if pod.finished_at is not None else float("inf"),
        pod.index,
    )


def _failure(pod: PodSummary) -> Failure:
    return Failure(pod.exit_code, pod.reason)


def _blamed(
    observed: ObservedAttempt, attempt: Attempt, pod: PodSummary, *, infrastructure: bool, drained: bool = False
) -> ObservedAttempt:
    reason, message = cause_of(pod)
    if infrastructure:
        reason = pod.disruption or (DISRUPTED if drained else reason)
    blamed = replace(
        attempt,
        exit_code=pod.exit_code,
        reason=reason,
        message=message,
        infrastructure=infrastructure,
    )
    return replace(observed, attempt=blamed, failed_pod=pod)


def cause_of(pod: PodSummary) -> tuple[str, str]:
    """Reason and one-line message of a pod's end: the program's own if it left any."""
    try:
        cause = Cause.model_validate_json(pod.message)
    except ValueError:
        reason = pod.reason or "Error"
        if killed_by := _signal_name((pod.exit_code or 0) - SIGNALS):  # the last line of its log is chance
            return reason, f"pod {pod.name} was killed by {killed_by} ({reason})"
        said = last_line(pod.message)
        how = f"exit code {pod.exit_code}" if pod.exit_code is not None else "no exit code"
        return reason, said if said else f"pod {pod.name} ended with {how} ({reason})"
    keeps = pod.reason if pod.reason in ("OOMKilled", "Evicted") else ""
    return keeps or one_line(cause.reason, 63), one_line(cause.message)


def _signal_name(number: int) -> str:
    """The name of a signal, for example `SIGKILL`; empty if there is none of that number."""
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def _observe_living(observed: ObservedAttempt, job: JobSummary, pods: list[PodSummary], now: float) -> ObservedAttempt:
    """The state of an attempt that has not ended."""
    existing = [pod for pod in pods if not pod.ended and pod.deleted_at is None]
    running = [pod for pod in existing if pod.started_at is not None]
    done = sum(pod.phase == "Succeeded" for pod in pods)
    if len(running) + done >= job.parallelism:
        return observed
    problem, ask = _waiting(job, existing, now)
    partial = None
    if observed.attempt.stage in GANGS and running and any(pod.unschedulable for pod in existing):
        partial = min(pod.started_at for pod in running if pod.started_at is not None)
    state = AttemptState.RUNNING if running and observed.attempt.stage not in GANGS else AttemptState.PENDING
    return replace(
        observed,
        attempt=replace(observed.attempt, state=state, partially_started_at=partial),
        problem=problem,
        ask_events=ask,
    )


def _waiting(job: JobSummary, pods: list[PodSummary], now: float) -> tuple[RunProblem | None, str]:
    """What pods wait for, or the uid of the object whose events may tell."""
    for pod in pods:
        if pod.waiting in PULL_PROBLEMS:
            return RunProblem(Reason.IMAGE_PULL_FAILED, _pull_message(pod)), ""
        if pod.waiting in CONFIG_PROBLEMS:
            return RunProblem(Reason.REFERENCE_MISSING, f"pod {pod.name}: {one_line(pod.waiting_message)}"), ""
    stuck = next((pod for pod in pods if pod.unschedulable), None)
    if stuck is not None:
        return RunProblem(Reason.UNSCHEDULABLE, one_line(stuck.unschedulable)), ""
    if job.suspended:
        return RunProblem(Reason.QUEUED, f"waits in the queue {job.queue}" if job.queue else "its Job is suspended"), ""
    if len(pods) < job.parallelism and now >= job.created_at + ASK_EVENTS_AFTER_S:
        return None, job.uid
    creating = next((pod for pod in pods if pod.started_at is None), None)
    late = creating is not None and now >= creating.created_at + ASK_EVENTS_AFTER_S
    return None, creating.uid if creating is not None and late else ""


def _pull_message(pod: PodSummary) -> str:
    """One message for both states of the kubelet: pulling and backing off."""
    found = re.search(r'image "([^"]+)"', pod.waiting_message)
    image = f" {found[1]}" if found else ""
    return f"node {pod.node} cannot pull the image{image}: check pods.image and pods.imagePullSecrets"


def event_problem(reason: str, message: str) -> RunProblem | None:
    """What an event of a Job or pod means for a run; None if it means nothing."""
    text = one_line(message)
    if "exceeded quota" in message:
        return RunProblem(Reason.QUOTA_EXCEEDED, text)
    if "violates PodSecurity" in message or "denied the request" in message:
        return RunProblem(Reason.POD_REFUSED, text)
    if reason in ("FailedMount", "FailedAttachVolume"):
        return RunProblem(Reason.REFERENCE_MISSING, text)
    if reason == "FailedCreate":
        kind = Reason.REFERENCE_MISSING if "not found" in message else Reason.POD_REFUSED
        return RunProblem(kind, text)
    return None
