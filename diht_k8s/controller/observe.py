"""Attempts of a run, as its Jobs and pods show them: for the plan, and for the person who reads the status. Pure.

The Job controller decides whether an attempt failed (it applies the pod failure policy), with one exception: it would
wait for lost pods, whose node does not answer. Nothing that the API server says of them changes while the node is away,
so they are found here.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from diht_k8s.api.errors import ComputedElsewhere, ExitCode
from diht_k8s.api.pods import RUN_UID
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import COMMITTED, Cause, Progress
from diht_k8s.api.run import Stage
from diht_k8s.api.steps import WAIT_STEP
from diht_k8s.controller.pod_reports import says_committed, with_progress, with_reports
from diht_k8s.controller.status_text import last_line, one_line
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.attempts import Attempt, AttemptState, LivingGang, attempt_name
from diht_k8s.pipeline.failure_policy import is_never_retried
from diht_k8s.pipeline.run_status import Failure

LOST_AFTER_S: Final = 300.0
"""A pod that ran and has not been ready for this time is lost even if nothing evicts it (Kubernetes' own default).

A lost node is found much sooner, by the eviction that its taint causes (30 s, see the pods' tolerations). A shorter
time would count pods as lost when the API server was away for a minute: then all nodes seem lost, and none is."""
GONE_AFTER_S: Final = 30.0
"""A pod that still exists this long after its deletion time has no kubelet that could remove it."""
SETTLE_S: Final = 2.0
"""Peers of a failed pod fail within moments; their times show who was first once all have ended."""
READ_EVENTS_AFTER_S: Final = 5.0
"""Pods that have not started after this time may have a reason that only events tell."""
MISSING_AFTER_S: Final = 2.0
"""Pods that do not exist after this time may have been refused, which only events of their Job tell."""
DISRUPTED: Final = "DisruptionTarget"
"""Kubernetes' condition of a preempted, drained or evicted pod; the Job controller names it in the Job's message."""
DRAINED: Final = re.compile(rf"Pod \S+/(\S+) has condition {DISRUPTED}")
"""How a Job's message names that pod."""
DISRUPTIONS: Final = {
    "EvictionByEvictionAPI": "{node} was drained (pod {pod} was evicted)",
    "PreemptionByScheduler": "pod {pod} on {node} was preempted by a pod of higher priority",
    "DeletionByTaintManager": "pod {pod} was evicted by a taint of {node} (node not ready, or tainted by hand)",
    "DeletionByPodGC": "pod {pod} was removed because {node} no longer exists",
    "TerminationByKubelet": "the kubelet of {node} ended pod {pod} (short of resources, or shutting down)",
}
"""Reasons of the condition, for a person."""
SIGNALS: Final = 128
"""What a shell and a container runtime add to the number of the signal that killed a program."""
LIVING: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})
PULL_PROBLEMS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
BACKING_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull)?:? *')
"""What the kubelet puts before the cause while it waits."""
CONFIG_PROBLEMS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})


@dataclass(frozen=True)
class RunProblem:
    """What keeps a run or its pods from running, for a condition."""

    reason: Reason
    message: str
    until_changed: bool = False
    """whether only another document can help: nothing is tried again before."""


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
    event_subject: str = ""
    """UID of the object whose events may tell more; empty if nothing is unclear."""
    lost: tuple[str, ...] = ()
    """names of lost pods (node not ready)."""
    settles_at: float | None = None
    """when it is clear which pod failed first."""
    queue: str = ""
    """the queue in which it waits, if its Job is made once it has quota."""

    @property
    def misses_pods(self) -> bool:
        """Whether pods do not exist that its Job should have made by now."""
        return self.job is not None and self.event_subject == self.job.uid

    @property
    def nodes(self) -> int:
        """Pods with which it runs, or is to."""
        gang = self.attempt.living_gang
        if gang is not None:
            return len(gang.members)
        return 0 if self.job is None else self.job.parallelism

    @property
    def entry(self) -> str:
        """The name of its entry in status.stages."""
        return entry_name(self.attempt.stage, self.attempt.record_step)


def entry_name(stage: Stage, step: str = "") -> str:
    """The name of an entry in status.stages, as objects are labelled with it: `train`, `label-heads`."""
    return f"{stage}-{step}" if step else stage.value


def entry_parts(name: str) -> tuple[Stage, str]:
    """The stage and step of such a name; `train-wait` is no entry, but labels what waits for another run's training."""
    stage, _, step = name.partition("-")
    return Stage(stage), step


def observe_attempts(
    jobs: Iterable[JobSummary],
    pods: Iterable[PodSummary],
    now: float,
    *,
    newest: Mapping[str, int],
    run_uid: str = "",
    former: Collection[str] = (),
    disrupted: Mapping[str, PodSummary] | None = None,
    pausing: bool = False,
) -> list[ObservedAttempt]:
    """The attempts of a run.

    Args:
        jobs: the run's own Jobs.
        pods: pods with the run's label, also those of other owners.
        now: seconds since the epoch.
        newest: number of the newest attempt by entry in status.stages; pods without a Job belong to the run up to it.
        run_uid: UID of the run.
        former: UIDs of Jobs that were the run's own and may be deleted by now.
        disrupted: pods that were drained, evicted or preempted, as last observed, by name.
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
        elif pod.attempt <= newest.get(_entry_of(pod), 0) and (pod.is_known_by(run_uid, former) or _is_orphan(pod)):
            own = by_attempt.setdefault((pod.stage, pod.attempt), (None, []))
            if own[0] is None:
                own[1].append(pod)
    observed = (
        _observe_attempt(stage, number, job, sorted(own, key=_order), now, pausing=pausing, gone=disrupted or {})
        for (stage, number), (job, own) in sorted(by_attempt.items())
    )
    return [attempt for attempt in observed if attempt is not None]


def with_named_holder(observed: ObservedAttempt, name_of: Callable[[str], str]) -> ObservedAttempt:
    """An attempt that found its training computed elsewhere, with the name of that run if it is of the same namespace.

    `name_of`: the name of a run of the namespace by its UID, which is all that a pod knows; empty for any other.
    """
    if observed.attempt.reason != ComputedElsewhere.__name__:
        return observed
    named = RUN_UID.sub(lambda found: name_of(found[0]), observed.attempt.message)
    message = named.replace("computed by run :", "computed by another run:")
    return replace(observed, attempt=replace(observed.attempt, message=message))


def _entry_of(pod: PodSummary) -> str:
    """The entry in status.stages to which a pod belongs."""
    stage, step = entry_parts(pod.stage)
    return entry_name(stage, "" if step == WAIT_STEP else step)


def _is_orphan(pod: PodSummary) -> bool:
    """Whether a pod names a Job as its owner that could be an attempt of its run.

    Labels are not enough: anybody may set them. A pod whose owner does not exist is soon deleted by the garbage
    collector, so a false one holds no run up for long.
    """
    stage, step = entry_parts(pod.stage)
    return bool(pod.job_uid) and pod.job_name == attempt_name(pod.run, stage, pod.attempt, step)


def _order(pod: PodSummary) -> tuple[int, float, str]:
    return pod.index, pod.created_at, pod.name


def _observe_attempt(
    entry: str,
    number: int,
    job: JobSummary | None,
    pods: list[PodSummary],
    now: float,
    *,
    pausing: bool,
    gone: Mapping[str, PodSummary],
) -> ObservedAttempt | None:
    stage, step = entry_parts(entry)
    lost = tuple(pod for pod in pods if is_lost(pod, now))
    missed = lost if job is None or not job.resizes else tuple(pod for pod in lost if pod.index == 0)
    active = sum(not pod.ended and pod not in lost for pod in pods)
    base = with_reports(Attempt(stage, number, AttemptState.RUNNING, active=active, step=step), job, pods)
    base = _timed(base, job, pods)
    quota = job.quota_nodes if job is not None else None
    base = replace(base, pods=job.parallelism if job is not None else active, quota=quota)
    if job is None:  # somebody removed the Job; its pods follow
        message = f"the Job of attempt {number} was deleted without its pods: waits until {active} are gone"
        left = ObservedAttempt(
            replace(base, ending=True), None, tuple(pods), problem=RunProblem(Reason.PENDING, message)
        )
        return left if active else None
    observed = ObservedAttempt(base, job, tuple(pods), lost=tuple(pod.name for pod in lost))
    if (
        job.deleted and lost and not active
    ):  # nothing can remove the rest of it: the wait would last as long as the node is away
        return _lost(observed, lost[0])
    if job.deleted:
        return replace(observed, attempt=replace(base, active=max(1, active), ending=True))
    if job.complete:
        reason = COMMITTED if says_committed(pods) else ""
        return replace(observed, attempt=replace(base, state=AttemptState.SUCCEEDED, reason=reason, ending=True))
    if job.failing or (missed and _are_missed(observed)):
        return _observe_failure(observed, job, pods, missed, now, pausing=pausing, gone=gone)
    if job.resizes and not job.suspended:
        observed = _with_living_gang(observed, job, pods, now, gone)
    return _observe_living(observed, job, pods, now)


def is_lost(pod: PodSummary, now: float) -> bool:
    """Whether a pod is lost: its node is not ready, though its containers may still run."""
    if pod.ended:
        return False
    if pod.deleted_at is not None and now >= pod.deleted_at + GONE_AFTER_S:
        return True
    if pod.started_at is None or pod.not_ready_since is None or pod.exit_code is not None:
        return False
    return bool(pod.disruption) or now >= pod.not_ready_since + LOST_AFTER_S


def _are_missed(observed: ObservedAttempt) -> bool:
    """Whether an attempt cannot end without its lost pods, which Kubernetes does not replace while their node is away.

    Workers need no peer: while one lives, or has succeeded where that is enough, the others are not missed.
    """
    if observed.attempt.is_gang or observed.job is None:
        return True
    done = observed.job.one_suffices and any(pod.phase == "Succeeded" for pod in observed.pods)
    return not (done or observed.attempt.active)


def _timed(attempt: Attempt, job: JobSummary | None, pods: list[PodSummary]) -> Attempt:
    """The attempt with its times by the cluster's clock: a pod without a node waits in the scheduler's queue."""
    if job is None:
        return attempt
    placed = [time for pod in pods if (time := pod.scheduled_at or pod.started_at) is not None]
    started = min(placed, default=job.started_at if job.complete or job.failing else None)
    return replace(attempt, started_at=started, ended_at=job.ended_at)


def _observe_failure(
    observed: ObservedAttempt,
    job: JobSummary,
    pods: list[PodSummary],
    lost: tuple[PodSummary, ...],
    now: float,
    *,
    pausing: bool,
    gone: Mapping[str, PodSummary],
) -> ObservedAttempt:
    """Who failed first, why, and whether it was the program's fault."""
    if job.resizes:  # it has outlived the disruptions of all pods but the first
        pods = [pod for pod in pods if pod.index == 0 or not pod.disruption]
    attempt = replace(observed.attempt, state=AttemptState.FAILED, ending=job.failing and not lost)
    if (
        not job.failing
    ):  # while its Job exists, it makes new pods as soon as the node is back: it has to be deleted first
        attempt = replace(attempt, active=max(1, attempt.active))
    first = min((pod for pod in pods if _has_failed(pod)), key=_blame, default=None)
    disrupted = next((pod for pod in pods if pod.disruption), None) or _drained_pod(job, gone)
    if first is not None and is_never_retried(_failure(first)):
        return _blamed(observed, attempt, first, infrastructure=False)
    if lost:
        return _lost(replace(observed, attempt=attempt), lost[0])
    if first is not None and disrupted is None and attempt.active and (settles_at := _settles_at(first, now)):
        return replace(observed, attempt=replace(attempt, state=AttemptState.RUNNING), settles_at=settles_at)
    if disrupted is not None:
        return _disrupted(observed, attempt, disrupted)
    drained = DISRUPTED in job.message
    if first is None or drained:
        return replace(observed, attempt=_removed(attempt, job, first), failed_pod=first)
    blamed = _blamed(observed, attempt, first, infrastructure=_was_stopped(first, pausing=pausing))
    if first.deleted_at is not None and first.exit_code == ExitCode.STOPPED and not pausing:
        message = one_line(f"pod {first.name} on {first.node} was deleted: {blamed.attempt.message}")
        return replace(blamed, attempt=replace(blamed.attempt, reason="PodRemoved", message=message))
    return blamed


def _has_failed(pod: PodSummary) -> bool:
    return pod.phase == "Failed" or (pod.exit_code or 0) != 0


def _settles_at(first: PodSummary, now: float) -> float | None:
    """When it is clear who failed first; None if it already is, or if the clock was set back."""
    if first.end_seen_at is None or not first.end_seen_at <= now < first.end_seen_at + SETTLE_S:
        return None
    return first.end_seen_at + SETTLE_S


def _drained_pod(job: JobSummary, disrupted: Mapping[str, PodSummary]) -> PodSummary | None:
    """The pod that made the Job fail, as last observed: it is deleted as soon as the Job controller has counted it."""
    found = DRAINED.search(job.message)
    return disrupted.get(found[1]) if found else None


def _removed(attempt: Attempt, job: JobSummary, first: PodSummary | None) -> Attempt:
    """An attempt that failed by a pod that was deleted before it was observed; `first` failed as a consequence."""
    code, found = first.exit_code if first is not None else None, DRAINED.search(job.message)
    reason, message = "PodRemoved", one_line(job.message) or "a pod was removed"
    if DISRUPTED in job.message:
        reason, message = DISRUPTED, f"pod {found[1] if found else ''} was drained, evicted or preempted"
    return replace(attempt, infrastructure=True, exit_code=code, reason=reason, message=message)


def _disrupted(observed: ObservedAttempt, attempt: Attempt, pod: PodSummary) -> ObservedAttempt:
    node = pod.node or "its node"
    form = DISRUPTIONS.get(pod.disruption, "pod {pod} on {node} was disrupted ({reason})")
    message = form.format(pod=pod.name, node=node, reason=pod.disruption)
    if pod.reason == "Evicted":
        message += f": {last_line(pod.message)}"
    ended = replace(
        attempt, infrastructure=True, exit_code=pod.exit_code, reason=pod.disruption, message=one_line(message)
    )
    return replace(observed, attempt=ended, failed_pod=pod)


def _was_stopped(pod: PodSummary, *, pausing: bool) -> bool:
    """Whether something else ended a pod: it has no exit code, or the code of a request that we did not make."""
    return (pod.exit_code is None and not pod.exceeded_its_limit) or (pod.exit_code == ExitCode.STOPPED and not pausing)


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


def _blamed(observed: ObservedAttempt, attempt: Attempt, pod: PodSummary, *, infrastructure: bool) -> ObservedAttempt:
    reason, message = cause_of(pod)
    blamed = replace(attempt, exit_code=pod.exit_code, reason=reason, message=message, infrastructure=infrastructure)
    return replace(observed, attempt=blamed, failed_pod=pod)


def cause_of(pod: PodSummary) -> tuple[str, str]:
    """Reason and one-line message of a pod's end: the program's own if it left any that counts."""
    if pod.exceeded_its_limit:
        return pod.reason, one_line(f"pod {pod.name}: {last_line(pod.message).rstrip('.')}: raise it in pods.resources")
    try:
        cause = Cause.model_validate_json(pod.message)
    except ValueError:
        reason = pod.reason or "Error"
        if killed_by := _signal_name((pod.exit_code or 0) - SIGNALS):  # the last line of its log is chance
            return reason, f"pod {pod.name} was killed by {killed_by} ({reason})"
        said = last_line(pod.message)
        how = f"exit code {pod.exit_code}" if pod.exit_code is not None else "no exit code"
        return reason, said if said else f"pod {pod.name} ended with {how} ({reason})"
    return pod.reason if pod.reason == "OOMKilled" else one_line(cause.reason, 63), one_line(cause.message)


def _signal_name(number: int) -> str:
    """The name of a signal, for example `SIGKILL`; empty if there is none of that number."""
    return signal.Signals(number).name if number in set(signal.Signals) else ""


def _with_living_gang(
    observed: ObservedAttempt, job: JobSummary, pods: list[PodSummary], now: float, gone: Mapping[str, PodSummary]
) -> ObservedAttempt:
    """A gang that goes on as nodes go and come, with its pods by index; as any other one while its first pod has no
    node.
    """
    first = next((pod for pod in pods if pod.index == 0 and pod.node and not pod.ended), None)
    if first is None:
        return observed
    there = [pod for pod in pods if pod.node and _is_there(pod)]
    decision, placed = first.decision, frozenset(pod.index for pod in there)
    away = [pod for pod in (*pods, *gone.values()) if pod.job_uid == job.uid and pod.index not in placed]
    unseen = {*range(job.parallelism)} - placed - {pod.index for pod in away}
    changes = [
        *(pod.started_at for pod in there if pod.started_at is not None),
        *(_away_since(pod) for pod in away),
        *(job.seen_at for _ in unseen),
    ]
    gang = LivingGang(
        nodes=job.parallelism,
        placed=placed,
        running=frozenset(pod.index for pod in there if pod.started_at is not None),
        without=() if decision is None else decision.without,
        decided_at=None if decision is None else decision.at,
        changed_at=min(max(changes, default=now), now),
    )
    return replace(observed, attempt=replace(observed.attempt, living_gang=gang))


def _is_there(pod: PodSummary) -> bool:
    """Whether a pod lives, or has ended well; its gang may go on without one whose node does not answer before that is
    lost for good.
    """
    if pod.ended or pod.deleted_at is not None:
        return pod.phase == "Succeeded"
    return pod.started_at is None or pod.not_ready_since is None or pod.exit_code is not None


def _away_since(pod: PodSummary) -> float:
    deleted = None if pod.deleted_at is None else pod.deleted_at - pod.grace_s
    return max(at for at in (pod.seen_at, pod.not_ready_since, pod.end_seen_at, deleted) if at is not None)


def _observe_living(observed: ObservedAttempt, job: JobSummary, pods: list[PodSummary], now: float) -> ObservedAttempt:
    """The state of an attempt that has not ended."""
    existing = [pod for pod in pods if not pod.ended and pod.deleted_at is None]
    running = [pod for pod in existing if pod.started_at is not None]
    done = sum(pod.phase == "Succeeded" for pod in pods)
    if len(running) + done >= job.parallelism:
        return observed
    lives, (problem, subject) = observed.attempt.living_gang, _pending_cause(job, existing, now)
    if lives is not None and lives.members <= lives.running:  # it goes on without those that wait
        return replace(observed, problem=problem)
    gang = observed.attempt.is_gang
    state = AttemptState.RUNNING if running and not gang else AttemptState.PENDING
    attempt = replace(observed.attempt, state=state)
    if lives is not None:
        if not lives.whole:
            attempt = replace(attempt, partially_started_at=lives.changed_at, placed=len(lives.placed))
            away = len(lives.members - lives.placed)
            problem = problem or RunProblem(
                Reason.PENDING, f"waits for {away} of its {lives.nodes} pods, whose nodes are lost"
            )
    elif gang and any(pod.unschedulable for pod in existing):
        attempt = _with_room(attempt, job, existing)
    return replace(observed, attempt=attempt, problem=problem, event_subject=subject)


def _with_room(attempt: Attempt, job: JobSummary, pods: list[PodSummary]) -> Attempt:
    """A gang of which some pods find no node, with how long that lasts."""
    started, placed = (
        [pod.started_at for pod in pods if pod.started_at is not None],
        sum(bool(pod.node) for pod in pods),
    )
    if started:
        return replace(attempt, partially_started_at=min(started), newest_start_at=max(started), placed=placed)
    if placed:
        return attempt
    since = min(pod.seen_at for pod in pods)
    return replace(attempt, unplaced_since=since, pod_group=job.pod_group)


def is_starting(jobs: Iterable[JobSummary], pods: Iterable[PodSummary]) -> bool:
    """Whether pods of a Job are still to start, and nothing has gone wrong: what there is to tell can wait for the
    others.
    """
    living = [job for job in jobs if not job.over and not job.deleted]
    if not living or any(job.failing or job.complete for job in living):
        return False
    started, own = 0, {job.uid for job in living}
    for pod in pods:
        if pod.job_uid not in own:
            continue
        if pod.ended or pod.deleted_at is not None or pod.exit_code is not None or pod.disruption:
            return False
        started += pod.started_at is not None
    return started < sum(job.parallelism for job in living)


def due_times(observed: ObservedAttempt) -> list[float]:
    """Times at which an attempt may change without an event."""
    if observed.job is None and not observed.pods:
        return []
    due = [observed.settles_at] if observed.settles_at is not None else []
    if observed.job is not None and observed.attempt.state is AttemptState.PENDING:
        missing = len(observed.pods) < observed.job.parallelism
        due.append(observed.job.seen_at + (MISSING_AFTER_S if missing else READ_EVENTS_AFTER_S + 1.0))
    for pod in observed.pods:
        if pod.ended or pod.name in observed.lost:
            continue
        if pod.deleted_at is not None:
            due.append(pod.deleted_at + GONE_AFTER_S)
        if pod.started_at is not None and pod.not_ready_since is not None:
            due.append(pod.not_ready_since + LOST_AFTER_S)
    return due


def _pending_cause(job: JobSummary, pods: list[PodSummary], now: float) -> tuple[RunProblem | None, str]:
    """What pods wait for, or the UID of the object whose events may tell."""
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
    if len(pods) < job.parallelism and now >= job.seen_at + MISSING_AFTER_S:
        return None, job.uid
    creating = next((pod for pod in pods if pod.started_at is None), None)
    late = creating is not None and now >= creating.seen_at + READ_EVENTS_AFTER_S
    return None, creating.uid if creating is not None and late else ""


def _pull_message(pod: PodSummary) -> str:
    """One message for both states of the kubelet, pulling and backing off, with its own words."""
    found = re.search(r'image "([^"]+)"', pod.waiting_message)
    image = f" {found[1]}" if found else ""
    words = one_line(BACKING_OFF.sub("", pod.waiting_message), 512)
    said = f": the kubelet says: {words}" if words else ""
    return f"node {pod.node} cannot pull the image{image}: check pods.image and pods.imagePullSecrets{said}"


@dataclass(frozen=True)
class LoggedProgress:
    """The newest progress line of an attempt."""

    entry: str
    attempt: int
    progress: Progress
    read_at: float
    """seconds since the epoch."""


def with_logged_progress(observed: ObservedAttempt, logged: LoggedProgress | None) -> Attempt:
    """The attempt with the work that its log names."""
    if logged is None or (logged.entry, logged.attempt) != (observed.entry, observed.attempt.number):
        return observed.attempt
    began = max((pod.started_at for pod in observed.pods if pod.started_at is not None), default=logged.read_at)
    return with_progress(observed.attempt, logged.progress, tells_time=logged.read_at >= began)
