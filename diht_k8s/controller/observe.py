"""Jobs and pods of one run in; attempts as the plan wants them, and what a person would want to know of the newest, out. Pure.

Whether an attempt failed is the Job controller's word (it applies the pod failure policy), but for pods that nobody hears from any
more: those the Job controller would wait for, so they are found here.
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
from diht_k8s.kube.summaries import JobView, PodView
from diht_k8s.pipeline.plan import is_never_retried
from diht_k8s.pipeline.states import Attempt, AttemptState, Failure

LOST_AFTER_S: Final = 300.0
"""A pod that ran and is not ready for so long is lost although nothing evicts it (Kubernetes' own default). A lost node is
found much sooner, by the eviction that its taint brings (30 s, see the pods' tolerations). Sooner than that a pod is also not
ready where the API server was away for a minute: then all nodes seem lost, and none is."""
GONE_AFTER_S: Final = 30.0
"""A pod that should have been gone for so long has no kubelet that could remove it."""
SETTLE_S: Final = 2.0
"""Peers of a failed pod fail within moments; who was first is told by their times once all are in."""
ASK_EVENTS_AFTER_S: Final = 5.0
"""Pods that are not there or not started after so long may have a reason that only events tell."""
DISRUPTED: Final = "DisruptionTarget"
"""Kubernetes' condition of a pod that was preempted, drained or evicted; the Job controller names it where it ends a Job for it."""
SIGNALS: Final = 128
"""What a shell and a container runtime add to the number of the signal that killed a program."""
GANGS: Final = frozenset({Stage.TRAIN})
PULL_PROBLEMS: Final = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable",
})  # fmt: skip
CONFIG_PROBLEMS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})


@dataclass(frozen=True)
class Problem:
    """Why something is not as it should be, for a condition."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Seen:
    """One attempt: what the plan needs, and where it comes from."""

    attempt: Attempt
    job: JobView | None
    pods: tuple[PodView, ...]
    failed_pod: PodView | None = None
    """the pod that failed first."""
    problem: Problem | None = None
    """why its pods do not all run."""
    ask_events: str = ""
    """uid of the object whose events may tell more; empty where nothing is unclear."""
    lost: tuple[str, ...] = ()
    """names of pods that nobody hears from any more."""
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


def see(
    jobs: Iterable[JobView],
    pods: Iterable[PodView],
    now: float,
    *,
    known: Mapping[str, int],
    pausing: bool = False,
) -> list[Seen]:
    """The attempts of a run.

    Args:
        jobs: the run's own Jobs.
        pods: pods with the run's label, of other owners, too.
        now: seconds since the epoch.
        known: number of the newest attempt by entry in status.stages; pods without a Job are a run's own up to that.
        pausing: whether programs were asked to stop, so that their end is no failure.
    """
    by_attempt: dict[tuple[str, int], tuple[JobView | None, list[PodView]]] = {}
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
    seen = (
        _see_attempt(stage, number, job, sorted(own, key=_order), now, pausing=pausing)
        for (stage, number), (job, own) in sorted(by_attempt.items())
    )
    return [attempt for attempt in seen if attempt is not None]


def _order(pod: PodView) -> tuple[int, float, str]:
    return pod.index, pod.created_at, pod.name


def is_lost(pod: PodView, now: float) -> bool:
    """Whether nobody hears from a pod any more: its node is gone, though its containers may live on."""
    if pod.ended:
        return False
    if pod.deleted_at is not None and now >= pod.deleted_at + GONE_AFTER_S:
        return True
    if pod.started_at is None or pod.not_ready_since is None or pod.exit_code is not None:
        return False
    return bool(pod.disruption) or now >= pod.not_ready_since + LOST_AFTER_S


def _see_attempt(
    entry: str, number: int, job: JobView | None, pods: list[PodView], now: float, *, pausing: bool
) -> Seen | None:
    stage, step = entry_parts(entry)
    lost = tuple(pod for pod in pods if is_lost(pod, now))
    active = sum(not pod.ended and pod not in lost for pod in pods)
    base = Attempt(stage, number, AttemptState.RUNNING, active=active, step=step)
    if job is None:  # somebody removed the Job; its pods follow
        return Seen(replace(base, ending=True), None, tuple(pods)) if active else None
    seen = Seen(base, job, tuple(pods), lost=tuple(pod.name for pod in lost))
    if (
        job.deleted and lost and not active
    ):  # nobody can remove what is left of it: waiting would last as long as the node is away
        return _lost(seen, lost[0])
    if job.deleted:
        return replace(seen, attempt=replace(base, active=max(1, active), ending=True))
    if job.complete:
        return replace(seen, attempt=replace(base, state=AttemptState.SUCCEEDED, ending=True))
    if job.failing or lost:
        return _see_failure(seen, job, pods, lost, now, pausing=pausing)
    return _see_living(seen, job, pods, now)


def _see_failure(
    seen: Seen, job: JobView, pods: list[PodView], lost: tuple[PodView, ...], now: float, *, pausing: bool
) -> Seen:
    """Who failed first, why, and whether it was the program's fault."""
    failed = [pod for pod in pods if pod.phase == "Failed" or (pod.exit_code or 0) != 0]
    first = min(failed, key=_blame, default=None)
    attempt = replace(seen.attempt, state=AttemptState.FAILED, ending=job.failing and not lost)
    fatal = first is not None and is_never_retried(_failure(first))
    disrupted = next((pod for pod in pods if pod.disruption), None)
    unclear = attempt.active and not fatal and not lost and disrupted is None
    if first is not None and unclear and first.finished_at is not None:
        settles_at = first.finished_at + SETTLE_S
        if first.finished_at <= now < settles_at:
            waiting = replace(attempt, state=AttemptState.RUNNING)
            return replace(seen, attempt=waiting, settles_at=settles_at)
    if fatal and first is not None:
        return _blamed(seen, attempt, first, infrastructure=False)
    if lost:
        return _lost(replace(seen, attempt=attempt), lost[0])
    # A drained pod is gone as soon as the Job controller has counted it; that one's word stays.
    drained = DISRUPTED in job.message
    if first is None:  # its pods were removed
        message = one_line(job.message) or "a pod was removed"
        reason = DISRUPTED if drained else "PodRemoved"
        return replace(seen, attempt=replace(attempt, infrastructure=True, reason=reason, message=message))
    stopped = first.exit_code == ExitCode.STOPPED and not pausing
    if disrupted is not None or drained or first.exit_code is None or stopped:
        return _blamed(seen, attempt, disrupted or first, infrastructure=True, drained=drained)
    return _blamed(seen, attempt, first, infrastructure=False)


def _lost(seen: Seen, pod: PodView) -> Seen:
    message = f"nobody hears from pod {pod.name} on node {pod.node} any more"
    attempt = replace(seen.attempt, state=AttemptState.FAILED, infrastructure=True, reason="NodeLost", message=message)
    return replace(seen, attempt=attempt, failed_pod=pod)


def _blame(pod: PodView) -> tuple[bool, bool, float, int]:
    """Sorts the pod that failed first to the front; one that will never do better before all, one that was stopped last."""
    code = pod.exit_code
    return (
        not is_never_retried(_failure(pod)),
        code == ExitCode.STOPPED,
        pod.finished_at if pod.finished_at is not None else float("inf"),
        pod.index,
    )


def _failure(pod: PodView) -> Failure:
    return Failure(ExitCode.UNEXPECTED if pod.exit_code is None else pod.exit_code, pod.reason)


def _blamed(seen: Seen, attempt: Attempt, pod: PodView, *, infrastructure: bool, drained: bool = False) -> Seen:
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
    return replace(seen, attempt=blamed, failed_pod=pod)


def cause_of(pod: PodView) -> tuple[str, str]:
    """Reason and one-line message of a pod's end: the program's own where it left any."""
    try:
        cause = Cause.model_validate_json(pod.message)
    except ValueError:
        reason = pod.reason or "Error"
        if killed_by := _signal_name((pod.exit_code or 0) - SIGNALS):  # its log's last line is chance
            return reason, f"pod {pod.name} was killed by {killed_by} ({reason})"
        said = last_line(pod.message)
        how = f"exit code {pod.exit_code}" if pod.exit_code is not None else "no exit code"
        return reason, said if said else f"pod {pod.name} ended with {how} ({reason})"
    keeps = pod.reason if pod.reason in ("OOMKilled", "Evicted") else ""
    return keeps or one_line(cause.reason, 63), one_line(cause.message)


def _signal_name(number: int) -> str:
    """`SIGKILL`; empty for what is no signal."""
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def _see_living(seen: Seen, job: JobView, pods: list[PodView], now: float) -> Seen:
    """How far an attempt that has not ended has come."""
    there = [pod for pod in pods if not pod.ended and pod.deleted_at is None]
    running = [pod for pod in there if pod.started_at is not None]
    done = sum(pod.phase == "Succeeded" for pod in pods)
    if len(running) + done >= job.parallelism:
        return seen
    problem, ask = _waiting(job, there, now)
    half = None
    if seen.attempt.stage in GANGS and running and any(pod.unschedulable for pod in there):
        half = min(pod.started_at for pod in running if pod.started_at is not None)
    state = AttemptState.RUNNING if running and seen.attempt.stage not in GANGS else AttemptState.PENDING
    return replace(
        seen, attempt=replace(seen.attempt, state=state, half_started_at=half), problem=problem, ask_events=ask
    )


def _waiting(job: JobView, pods: list[PodView], now: float) -> tuple[Problem | None, str]:
    """What pods wait for, and whose events to ask where nothing tells."""
    for pod in pods:
        if pod.waiting in PULL_PROBLEMS:
            return Problem(Reason.IMAGE_PULL_FAILED, _pull_message(pod)), ""
        if pod.waiting in CONFIG_PROBLEMS:
            return Problem(Reason.REFERENCE_MISSING, f"pod {pod.name}: {one_line(pod.waiting_message)}"), ""
    stuck = next((pod for pod in pods if pod.unschedulable), None)
    if stuck is not None:
        return Problem(Reason.UNSCHEDULABLE, one_line(stuck.unschedulable)), ""
    if job.suspended:
        return Problem(Reason.QUEUED, f"waits in the queue {job.queue}" if job.queue else "its Job is suspended"), ""
    if len(pods) < job.parallelism and now >= job.created_at + ASK_EVENTS_AFTER_S:
        return None, job.uid
    creating = next((pod for pod in pods if pod.started_at is None), None)
    late = creating is not None and now >= creating.created_at + ASK_EVENTS_AFTER_S
    return None, creating.uid if creating is not None and late else ""


def _pull_message(pod: PodView) -> str:
    """The same words while the kubelet goes back and forth between trying and waiting."""
    found = re.search(r'image "([^"]+)"', pod.waiting_message)
    image = f" {found[1]}" if found else ""
    return f"node {pod.node} cannot pull the image{image}: check pods.image and pods.imagePullSecrets"


def event_problem(reason: str, message: str) -> Problem | None:
    """What an event of a Job or pod means for a run; None where it means nothing."""
    text = one_line(message)
    if "exceeded quota" in message:
        return Problem(Reason.QUOTA_EXCEEDED, text)
    if "violates PodSecurity" in message or "denied the request" in message:
        return Problem(Reason.POD_REFUSED, text)
    if reason in ("FailedMount", "FailedAttachVolume"):
        return Problem(Reason.REFERENCE_MISSING, text)
    if reason == "FailedCreate":
        kind = Reason.REFERENCE_MISSING if "not found" in message else Reason.POD_REFUSED
        return Problem(kind, text)
    return None
