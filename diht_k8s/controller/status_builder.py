"""The status (`DihtRun.status`) that a plan leads to, from the plan, the attempts and their progress. Pure.

Equal input gives equal output, so that nothing is written when nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diht_k8s.api.base import timestamp
from diht_k8s.api.layout import join
from diht_k8s.api.redaction import redacted_text
from diht_k8s.api.reports import MAX_PROBLEM, NodeResult, worst
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import (
    MAX_ATTEMPTS,
    AttemptStatus,
    FailureCause,
    JobReference,
    LastCheckpoint,
    Metric,
    NodePreflight,
    PodCounts,
    Preflight,
    ProgressStatus,
    Queue,
    RunningTime,
    StageState,
    StageStatus,
    Status,
    WorkStatus,
    bounded,
)
from diht_k8s.api.status import StageState as EntryState
from diht_k8s.controller.avoided_nodes import nodes_to_avoid, restarts_in_place, suspect_node
from diht_k8s.controller.conditions import conditions
from diht_k8s.controller.observe import LoggedProgress, ObservedAttempt, RunProblem, entry_name
from diht_k8s.controller.pod_reports import newest_checkpoint, preflight_results, stage_folder
from diht_k8s.controller.status_text import TAIL_WIDTH, one_line
from diht_k8s.pipeline.goodput import run_goodput, stage_goodput
from diht_k8s.pipeline.run_status import ENDED_WELL, FINAL, RunState, RunStatus, StageRecord

MAX_METRICS = 16
RESIZED = "Resized"
"""Reason of an attempt's end that gave way to one on another number of nodes."""
QUOTA_CHANGED = "QuotaChanged"
"""The same where its queue took quota back, or has more."""
GAVE_WAY = frozenset({RESIZED, QUOTA_CHANGED})
_WORD = 63
MAX_URI = 1088
MAX_NODE_NAME = 253


def redacted_status(status: Status, secrets: tuple[str, ...]) -> Status:
    """The status without literal values of the run: programs and the cluster may repeat them in what they say."""
    if not secrets:
        return status
    stages = [
        stage.model_copy(
            update={
                "cause": stage.cause and _redacted_cause(stage.cause, secrets),
                "preflight": stage.preflight and _redacted_preflight(stage.preflight, secrets),
            }
        )
        for stage in status.stages
    ]
    found = [
        each.model_copy(update={"message": one_line(redacted_text(each.message, secrets))})
        for each in status.conditions
    ]
    return status.model_copy(update={"stages": stages, "conditions": found})


def _redacted_cause(cause: FailureCause, secrets: tuple[str, ...]) -> FailureCause:
    tail = [one_line(redacted_text(line, secrets), TAIL_WIDTH) for line in cause.log_tail]
    return cause.model_copy(update={"message": one_line(redacted_text(cause.message, secrets)), "log_tail": tail})


def _redacted_preflight(found: Preflight, secrets: tuple[str, ...]) -> Preflight:
    nodes = [
        each.model_copy(update={"problem": one_line(redacted_text(each.problem, secrets), MAX_PROBLEM)})
        for each in found.nodes
    ]
    return found.model_copy(update={"nodes": nodes})


def can_defer(written: Mapping[str, Any], new: Status, document: Mapping[str, Any]) -> bool:
    """Whether only pod counts and times changed, and pods are still missing: pods start one by one."""
    if new.pods is None or new.pods.ready == new.pods.desired:
        return False
    return _without_counts(written) == _without_counts(document)


def _without_counts(document: Mapping[str, Any]) -> dict[str, Any]:
    stages = [{**stage, "goodput": None} for stage in document.get("stages", ())]
    return {**document, "pods": None, "goodput": None, "stages": stages}


def build_status(
    previous: Status,
    run: DihtRun,
    before: RunStatus,
    after: RunStatus,
    observed: list[ObservedAttempt],
    *,
    problem: RunProblem | None,
    logged: LoggedProgress | None,
    tails: dict[str, list[str]],
    generation: int,
    now: float,
) -> Status:
    """The new status.

    Args:
        previous: the status that the run has.
        run: the run.
        before: the same, as the plan read it.
        after: what the plan decided on.
        observed: the attempts that exist.
        problem: what blocks the operator.
        logged: the newest progress.
        tails: last lines of the logs of pods that failed, by name.
        generation: metadata.generation of the run.
        now: seconds since the epoch.
    """
    current = _current(after)
    attempt = _newest(observed, current) if current is not None else None
    old = {entry.name: entry for entry in previous.stages}
    attempts = _attempts(previous, before, after, observed, now)
    stages = [
        _entry(run, old.get(_name(stage)), before, stage, observed, logged, tails, attempts, now)
        for stage in after.stages
    ]
    living = after.state not in FINAL
    status = Status(
        observed_generation=generation,
        conditions=conditions(
            previous,
            after,
            attempt,
            problem,
            pausing=run.spec.suspend,
            generation=generation,
            now=now,
            spec=run.spec,
            by_quota=current is not None and gave_way_to_quota(attempts, _name(current), current.attempt),
        ),
        start_time=_time(after.started_at, previous.start_time),
        completion_time=previous.completion_time or _time(after.ended_at, None) if after.state in FINAL else None,
        running_time=_running_time(after),
        restarts=sum(stage.restarts for stage in stages),
        progress=_progress(previous, after, current, logged),
        pods=_pods(attempt) if living else None,
        queue=_queue(attempt) if living else None,
        last_checkpoint=_last_checkpoint(previous, logged, observed),
        stages=stages,
        attempts=attempts,
        goodput=run_goodput(stages),
    )
    return bounded(status)


def gave_way_to_quota(attempts: Iterable[AttemptStatus], stage: str, number: int) -> bool:
    """Whether an attempt gave way as its quota changed."""
    return any((each.stage, each.number, each.reason) == (stage, number, QUOTA_CHANGED) for each in attempts)


def _time(value: float | None, written: str | None) -> str | None:
    """A time, kept as it is written if it means the same second."""
    return None if value is None else written if written == timestamp(value) else timestamp(value)


def _name(stage: StageRecord) -> str:
    return entry_name(stage.stage, stage.step)


def _current(run: RunStatus) -> StageRecord | None:
    """The first stage that is not complete; the last one if all are."""
    return next(
        (stage for stage in run.stages if stage.state not in ENDED_WELL), run.stages[-1] if run.stages else None
    )


def _newest(observed: list[ObservedAttempt], stage: StageRecord) -> ObservedAttempt | None:
    own = [each for each in observed if each.entry == _name(stage) and each.attempt.number == stage.attempt]
    return own[-1] if own else None


def failed_attempt(observed: list[ObservedAttempt], stage: StageRecord) -> ObservedAttempt | None:
    """The attempt that has just failed; the same plan may have decided on the next one."""
    own = [each for each in observed if each.entry == _name(stage) and each.attempt.number == _failed_number(stage)]
    return own[-1] if own else None


def _job(stage: StageRecord, observed: list[ObservedAttempt]) -> JobReference | None:
    """The Job of a stage's newest attempt, if it exists."""
    newest = _newest(observed, stage)
    return None if newest is None or newest.job is None else JobReference(kind="Job", name=newest.job.name)


def _failed_number(stage: StageRecord) -> int:
    return stage.attempt - (stage.state is StageState.RUNNING)


def newly_failed(before: RunStatus, stage: StageRecord) -> bool:
    """Whether the plan has just taken note of a failure of the stage."""
    old = before.of(stage.stage, stage.step)
    if stage.failure is None or old.state in (StageState.FAILED, StageState.STOPPED):
        return False
    left = stage.computed_elsewhere and not old.computed_elsewhere  # which counts towards nothing
    # One that was asked to stop keeps the failure of an earlier attempt.
    stopped = stage.state is StageState.STOPPED and stage.failure != old.failure
    return left or stopped or stage.total_restarts > old.total_restarts or stage.state is StageState.FAILED


def _entry(
    run: DihtRun,
    old: StageStatus | None,
    before: RunStatus,
    stage: StageRecord,
    observed: list[ObservedAttempt],
    logged: LoggedProgress | None,
    tails: dict[str, list[str]],
    attempts: list[AttemptStatus],
    now: float,
) -> StageStatus:
    started, ended = stage.attempt > 0, stage.state in ENDED_WELL or stage.state is StageState.FAILED
    cause = old.cause if old is not None and stage.failure is not None else None
    if newly_failed(before, stage):
        cause = _cause(stage, failed_attempt(observed, stage), tails)
    same = old is not None and old.attempt == stage.attempt
    job = _job(stage, observed) or (old.workload if old is not None and same else None)
    in_place = restarts_in_place(stage, old.restarts_in_place if old is not None else None, observed)
    nodes = _nodes(run, stage, observed)
    told = {} if logged is None or logged.entry != _name(stage) else {logged.attempt: logged.progress.preflight}
    return StageStatus(
        name=_name(stage),
        stage=stage.stage,
        state=EntryState(stage.state.value),
        attempt=stage.attempt,
        restarts=stage.total_restarts,
        restarts_count_towards_max=stage.restarts,
        infrastructure_restarts_count_towards_max=_lost(stage),
        healed_until_seconds=stage.healed_until,
        infrastructure_healed_until_seconds=stage.infrastructure_healed_until,
        restarts_in_place=in_place,
        work=_work(stage),
        out_of_memory=stage.out_of_memory,
        not_before=_time(stage.not_before, old.not_before if old is not None else None),
        backend=(old.backend if old is not None and old.backend else "Job") if started else None,
        workload=job if started else None,
        nodes=nodes,
        wished_nodes=run.spec.train.num_nodes if nodes is not None and run.spec.train is not None else None,
        quota_nodes=_quota_nodes(old if same else None, _newest(observed, stage)) if nodes is not None else None,
        min_count=stage.min_count if stage.state is StageState.RUNNING else None,
        resized_time=None if nodes is None else _resized_time(_newest(observed, stage)),
        avoid_nodes=nodes_to_avoid(old.avoid_nodes if old is not None else (), attempts, _name(stage), in_place),
        start_time=((old.start_time if old is not None else None) or timestamp(now)) if started else None,
        completion_time=((old.completion_time if old is not None else None) or timestamp(now)) if ended else None,
        output_uri=_output(run, stage, observed) or (old.output_uri if old is not None else None),
        cause=cause,
        goodput=stage_goodput(stage.time, ended=stage.state in ENDED_WELL),
        preflight=_preflight(_name(stage), old.preflight if old is not None else None, observed, told),
    )


def _nodes(run: DihtRun, stage: StageRecord, observed: list[ObservedAttempt]) -> int | None:
    """The nodes of an elastic gang that runs, or follows as it shrinks; None of any other stage."""
    train = run.spec.train
    if train is None or train.min_nodes is None or stage.stage is not Stage.TRAIN or stage.computed_elsewhere:
        return None
    if stage.state is StageState.RESTARTING or (stage.state is StageState.RUNNING and stage.nodes is not None):
        return stage.nodes
    if stage.state is not StageState.RUNNING:
        return None
    newest = _newest(observed, stage)
    return train.num_nodes if newest is None or newest.job is None else newest.nodes


def _resized_time(newest: ObservedAttempt | None) -> str | None:
    """When it was decided with which nodes an attempt goes on in its living pods; None where it never was."""
    gang = newest.attempt.living_gang if newest is not None else None
    return None if gang is None or gang.decided_at is None else timestamp(gang.decided_at)


def _quota_nodes(old: StageStatus | None, newest: ObservedAttempt | None) -> int | None:
    """Nodes for which the newest attempt had quota as it began, as its Job says."""
    if newest is None or newest.job is None:
        return None if old is None else old.quota_nodes
    return newest.job.quota_nodes


def _output(run: DihtRun, stage: StageRecord, observed: list[ObservedAttempt]) -> str | None:
    """The folder of a stage, as its programs said."""
    pods = [pod for each in observed if each.entry == _name(stage) for pod in each.pods]
    return stage_folder(pods, join(run.spec.data.output, stage.stage.value, ""))


def _lost(stage: StageRecord) -> int | None:
    """Infrastructure restarts that count; None where an older operator would compute the same."""
    lost = stage.infrastructure_restarts
    return None if lost == stage.total_restarts - stage.restarts else lost


def _work(stage: StageRecord) -> WorkStatus | None:
    if not stage.work.position and not stage.failed_at:
        return None
    return WorkStatus(position=stage.work.position, seconds=stage.work.seconds, failed_position=stage.failed_at)


def _running_time(run: RunStatus) -> RunningTime | None:
    if run.started_at is None:
        return None
    return RunningTime(
        seconds=run.ran_seconds,
        until=timestamp(run.ran_until) if run.ran_until else None,
        since=timestamp(run.running_since) if run.running_since is not None else None,
    )


def _cause(stage: StageRecord, observed: ObservedAttempt | None, tails: dict[str, list[str]]) -> FailureCause:
    assert stage.failure is not None
    pod = observed.failed_pod if observed is not None else None
    return FailureCause(
        pod=one_line(pod.name, _WORD) if pod is not None else "",
        container=one_line(pod.container, _WORD) if pod is not None else "",
        node=pod.node if pod is not None else "",
        exit_code=observed.attempt.exit_code if observed is not None else None,
        reason=one_line(stage.failure.reason, _WORD),
        message=one_line(stage.failure.message),
        log_tail=tails.get(pod.name, []) if pod is not None else [],
    )


def _progress(
    previous: Status, run: RunStatus, current: StageRecord | None, logged: LoggedProgress | None
) -> ProgressStatus | None:
    if current is None:
        return None
    entry = _name(current)
    written = previous.progress if previous.progress is not None and previous.progress.stage == entry else None
    if logged is not None and logged.entry == entry and logged.attempt == current.attempt:
        read = _progress_status(entry, logged)
        if written is None or read != written.model_copy(update={"last_updated_time": read.last_updated_time}):
            written = read  # else nothing new was logged since then
    if run.state is RunState.COMPLETE:
        base = written or ProgressStatus(stage=entry)
        return base.model_copy(update={"percentage": 100, "estimated_remaining_seconds": None})
    return written or ProgressStatus(stage=entry)


def _progress_status(entry: str, logged: LoggedProgress) -> ProgressStatus:
    line = logged.progress
    names = {one_line(name, _WORD): value for name, value in line.metrics.items()}
    return ProgressStatus(
        stage=entry,
        step=one_line(line.step, _WORD),
        done=line.done,
        total=line.total,
        unit=one_line(line.unit, _WORD),
        percentage=min(100, 100 * line.done // line.total) if line.total else 0,
        samples_per_second=f"{line.per_second:.6g}",
        estimated_remaining_seconds=line.eta_seconds,
        last_updated_time=timestamp(logged.read_at),
        metrics=[Metric(name=name, value=f"{value:.6g}") for name, value in list(names.items())[:MAX_METRICS]],
    )


def _preflight(
    entry: str,
    written: Preflight | None,
    observed: Iterable[ObservedAttempt],
    logged: Mapping[int, Sequence[NodeResult]],
) -> Preflight | None:
    """The worst nodes of the newest attempt of a stage whose preflight is known.

    Args:
        entry: the stage's name in status.stages.
        written: what the status has so far.
        observed: the attempts that exist; their pods may have told as they ended.
        logged: what lines of progress tell, by the attempt's number.
    """
    told = {number: results for number, results in logged.items() if results}
    for each in observed:
        if each.entry == entry and (results := preflight_results(each.pods)):
            told[each.attempt.number] = results
    newest = max(told, default=0)
    old = written or Preflight()
    if not newest or newest < old.attempt:
        return written
    nodes = [_node_preflight(result) for result in worst(told[newest])]
    fewer = newest == old.attempt and len(nodes) < len(old.nodes)  # pods go one after the other
    return written if fewer else Preflight(attempt=newest, nodes=nodes)


def _node_preflight(result: NodeResult) -> NodePreflight:
    """What a status can hold of a result."""
    return NodePreflight(
        node=one_line(result.node, MAX_NODE_NAME),
        pod=one_line(result.pod, _WORD),
        problem=one_line(result.problem, MAX_PROBLEM),
        figures=[Metric(name=name, value=f"{value:.6g}") for name, value in result.figures.items()],
    )


def _last_checkpoint(
    previous: Status, logged: LoggedProgress | None, observed: list[ObservedAttempt]
) -> LastCheckpoint | None:
    """The checkpoint logged last; a program that resumes from an older one's does not know its time.

    Pods name it as they end as well, since a log may be lost.
    """
    said, written = logged.progress.checkpoint if logged is not None else None, previous.last_checkpoint
    left = newest_checkpoint(pod for each in observed[-1:] for pod in each.pods)
    if left is not None and left.step > max(said.step if said else -1, written.step if written else -1):
        said = left
    if said is None:
        return written
    uri, time = one_line(said.uri, MAX_URI), timestamp(said.time) if said.time is not None else None
    if written is not None and (written.step, written.uri) == (said.step, uri) and time is None:
        return written
    return LastCheckpoint(step=said.step, uri=uri, time=time)


def _pods(observed: ObservedAttempt | None) -> PodCounts | None:
    if observed is None or observed.job is None:
        return None
    failed = sum(pod.phase == "Failed" for pod in observed.pods)
    return PodCounts(
        desired=observed.job.parallelism,
        active=observed.attempt.active,
        ready=sum(pod.ready for pod in observed.pods),
        failed=failed,
    )


def _queue(observed: ObservedAttempt | None) -> Queue | None:
    if observed is not None and observed.queue:
        return Queue(name=observed.queue, reason=observed.problem.message if observed.problem is not None else "")
    if observed is None or observed.job is None or not observed.job.queue:
        return None
    waits = observed.job.suspended and observed.problem is not None
    return Queue(
        name=observed.job.queue, reason=observed.problem.message if waits and observed.problem is not None else ""
    )


def _attempts(
    previous: Status, before: RunStatus, after: RunStatus, observed: list[ObservedAttempt], now: float
) -> list[AttemptStatus]:
    """The last attempts, with those that have just begun or ended."""
    found = {(attempt.stage, attempt.number): attempt for attempt in previous.attempts}
    for stage in after.stages:
        old, name = before.of(stage.stage, stage.step), _name(stage)
        if newly_failed(before, stage):
            number = _failed_number(stage)
            fault = stage.failure is not None and not stage.failure.infrastructure
            counted = stage.state is StageState.FAILED or (fault and stage.total_restarts > old.total_restarts)
            ended = _ended(found.get((name, number)), name, number, stage, now, counted=counted)
            node = suspect_node(stage.failure, failed_attempt(observed, stage)) if stage.failure is not None else ""
            found[name, number] = ended.model_copy(update={"node": node})
        elif stage.nodes is not None and (old.state, stage.state) == (StageState.RUNNING, StageState.RESTARTING):
            reason = QUOTA_CHANGED if stage.resized_by_quota else RESIZED
            ended = _ended(found.get((name, stage.attempt)), name, stage.attempt, stage, now, counted=False)
            found[name, stage.attempt] = ended.model_copy(update={"exit_code": None, "reason": reason})
        elif stage.state is not old.state and stage.state in (*ENDED_WELL, StageState.STOPPED) and stage.attempt:
            number = stage.attempt
            ended = _ended(found.get((name, number)), name, number, stage, now, counted=False)
            found[name, number] = ended.model_copy(update={"exit_code": None, "reason": stage.state.value})
        if stage.attempt > max(old.attempt, 0) and (name, stage.attempt) not in found:
            found[name, stage.attempt] = AttemptStatus(stage=name, number=stage.attempt, start_time=timestamp(now))
    for each in observed:
        key = (each.entry, each.attempt.number)
        if each.job is not None and key in found and found[key].uid != each.job.uid:
            found[key] = found[key].model_copy(update={"uid": each.job.uid})
    return list(found.values())[-MAX_ATTEMPTS:]


def _ended(
    attempt: AttemptStatus | None, name: str, number: int, stage: StageRecord, now: float, *, counted: bool
) -> AttemptStatus:
    begun = attempt or AttemptStatus(stage=name, number=number)
    failure = stage.failure if stage.state not in ENDED_WELL else None
    reason = failure.reason if failure is not None else stage.state.value
    code = failure.exit_code if failure is not None else None
    return begun.model_copy(
        update={
            "completion_time": timestamp(now),
            "exit_code": code,
            "reason": one_line(reason, _WORD),
            "counted": counted,
        }
    )
