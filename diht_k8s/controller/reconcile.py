"""One look at one run: observe, plan, write the status if it changed, act, tell.

The status is written before the actions: it says what is decided, and a decision that a crash kept from being carried out is
carried out at the next look, since names are deterministic. The other way round a restart could go uncounted.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.reasons import Reason
from diht_k8s.api.run import DihtRun
from diht_k8s.api.status import Status, wire
from diht_k8s.controller.actions import act, discard
from diht_k8s.controller.conditions import conditions
from diht_k8s.controller.events import event, news
from diht_k8s.controller.informer import Informer
from diht_k8s.controller.observe import GANGS, GONE_AFTER_S, LOST_AFTER_S, Problem, Seen, entry_name, see
from diht_k8s.controller.pod_logs import Logs, cached_in, progress_in, why_waiting
from diht_k8s.controller.runs import Key, KnownRun, Runs, known_run
from diht_k8s.controller.saved_status import has_ended, remembered
from diht_k8s.controller.status import Reading, failed_attempt, newly_failed, report
from diht_k8s.controller.warning_events import Complaints
from diht_k8s.kube.client import Cluster, ClusterError
from diht_k8s.kube.summaries import JobView, PodView
from diht_k8s.pipeline.plan import CLUSTER_STEPS, plan
from diht_k8s.pipeline.states import FINAL, AttemptState, BackOff, Observed, Plan, RunStatus, StageState

logger = logging.getLogger(__name__)

FIRST_ASK_AGAIN_S: Final = 2.0
"""Events and queues are asked again soon at first."""
PROBLEM_WAIT_S: Final = 1.0
MOST_PROBLEM_WAIT_S: Final = 30.0


@dataclass
class _Note:
    """What is remembered of a run between looks and may be lost at any time."""

    problem: Problem | None = None
    """what was in the way when actions were tried last."""
    problems: int = 0
    reading: Reading | None = None
    read_at: float = 0.0
    asked: str = ""
    asks: int = 0
    asked_at: float = 0.0
    answer: Problem | None = None
    tails: dict[str, list[str]] = field(default_factory=dict)
    wrote_at: float = 0.0
    owes_counts: bool = False
    """the status has older pod counts than we: they are written with the next change, or after a while."""


class Reconciler:
    """Looks at runs. Different runs may be looked at by different threads at the same time."""

    def __init__(
        self,
        cluster: Cluster,
        runs: Runs,
        jobs: Informer[JobView],
        pods: Informer[PodView],
        *,
        poke: Callable[[Iterable[Key]], None] = lambda keys: None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make one.

        Args:
            cluster: the API server.
            runs: the runs.
            jobs: their Jobs.
            pods: their pods.
            poke: told runs that may go on because this one has ended.
            clock: seconds since the epoch.
            jitter: a random number from 0 to 1.
        """
        self._cluster, self._runs, self._jobs, self._pods = cluster, runs, jobs, pods
        self._poke, self._clock, self._jitter = poke, clock, jitter
        self._notes: dict[Key, _Note] = {}
        self._active: set[Key] = set()
        self._logs, self._complaints = Logs(cluster), Complaints(cluster)

    @property
    def active_runs(self) -> int:
        """Number of runs with a living attempt."""
        return len(self._active)

    def reconcile(self, key: Key) -> float | None:
        """Look at a run once.

        Returns:
            Seconds after which to look again though nothing happens; None waits for news.

        Raises:
            ClusterError: the API server is in trouble: look again later.
        """
        known = self._runs.get(key)
        if known is None or known.deleting:
            self._notes.pop(key, None)
            self._active.discard(key)
            return None
        try:
            return self._look(known, self._notes.get(key) or self._notes.setdefault(key, self._first_note(known)))
        except ClusterError as error:
            if error.is_terminating or (error.is_gone and self._is_gone(known)):
                return None
            raise

    def _first_note(self, known: KnownRun) -> _Note:
        """Progress that an earlier operator has read is good for a while yet: a new one would read all logs at once."""
        status = known.status
        if status.progress is None or status.progress.last_updated_time is None:
            return _Note()
        return _Note(read_at=self._clock() - self._jitter() * _progress_interval(len(self._runs)))

    def _is_gone(self, known: KnownRun) -> bool:
        """A run that the API server does not know any more, though nobody has told us."""
        self._runs.remove(known.key, known.uid)
        return True

    def _look(self, known: KnownRun, note: _Note) -> float | None:
        now, status = self._clock(), known.status
        try:
            run = self._runs.parsed(known)
        except UserError as error:
            self._refuse(known, status, Problem(Reason.INVALID_SPEC, str(error)), note, now)
            return None
        before = remembered(status)
        seen = self._see(known, run, status, now)
        problem = note.problem
        if before.state not in FINAL and (holder := self._runs.holder_of_output(known)) is not None:
            message = f"run {holder.namespace}/{holder.name} writes to {known.output}: choose another data.output"
            decided, problem = Plan((), before), Problem(Reason.OUTPUT_IN_USE, message)
        else:
            decided = self._plan(known, run, status, before, seen, now)
        seen = self._ask(known, seen, decided, note, now)
        after = self._look_closer(known, before, decided.status, seen, note, now)
        new = report(
            status, run, before, after, seen, problem=problem, reading=note.reading, tails=note.tails,
            generation=known.generation, now=now,
        )  # fmt: skip
        is_new = not known.document["status"]
        known = self._write(known, new, note, now)
        if (
            is_new and decided.actions
        ):  # of a thousand new runs each says what it is about before the first one's Job is made
            self._tell(known, status, new, now)
            return 0.0
        problem = act(self._cluster, known, run, decided.actions, seen, self._jobs.put)
        discard(self._cluster, known, seen)
        self._tell(known, status, new, now)
        return self._next(known, decided, seen, note, problem, now)

    def _refuse(self, known: KnownRun, status: Status, problem: Problem, note: _Note, now: float) -> None:
        """Say that a run cannot be taken on; its children, if there are any, are left alone."""
        found = conditions(
            status, remembered(status), None, problem, pausing=False, generation=known.generation, now=now
        )
        new = status.model_copy(update={"conditions": found, "observed_generation": known.generation})
        self._tell(self._write(known, new, note, now), status, new, now)

    def _see(self, known: KnownRun, run: DihtRun, status: Status, now: float) -> list[Seen]:
        jobs = [job for job in self._jobs.of(*known.key) if job.owner_uid == known.uid]
        attempts = {stage.name: stage.attempt for stage in status.stages}
        return see(jobs, self._pods.of(*known.key), now, known=attempts, pausing=run.spec.suspend)

    def _plan(
        self, known: KnownRun, run: DihtRun, status: Status, before: RunStatus, seen: list[Seen], now: float
    ) -> Plan:
        observed = Observed(
            attempts=tuple(each.attempt for each in seen),
            retry_requested=bool(known.retry) and known.retry == status.completion_time,
        )
        back_off = BackOff(jitter=self._jitter())
        return plan(run, observed, now, status=before, back_off=back_off, steps=CLUSTER_STEPS)

    def _ask(self, known: KnownRun, seen: list[Seen], decided: Plan, note: _Note, now: float) -> list[Seen]:
        """Fill in why pods wait where only events or the queue tell."""
        living = next((each for each in reversed(seen) if each.attempt.state in _LIVING), None)
        if living is None or decided.status.state in FINAL:
            return seen
        subject = living.ask_events or (living.job.uid if living.job is not None and living.job.suspended else "")
        if not subject:
            return seen
        if subject != note.asked:
            note.asked, note.asks = subject, 0
        if not note.asks or not note.asked_at <= now < note.asked_at + self._ask_again_s(note):
            note.asks, note.asked_at = note.asks + 1, now
            note.answer = why_waiting(self._cluster, self._complaints, known, living)
        if note.answer is None:
            return seen
        return [replace(each, problem=note.answer) if each is living else each for each in seen]

    def _look_closer(
        self, known: KnownRun, before: RunStatus, after: RunStatus, seen: list[Seen], note: _Note, now: float
    ) -> RunStatus:
        """Read logs where they have something to say: progress now and then, the end of a pod that failed, a cached stage."""
        running = next((each for each in reversed(seen) if each.attempt.state is AttemptState.RUNNING), None)
        if running is not None and not now - self._progress_interval() < note.read_at <= now:
            note.read_at = now
            note.reading = self._logs.progress(known, running, now) or note.reading
        stages = list(after.stages)
        for index, stage in enumerate(stages):
            if newly_failed(before, stage):
                note.tails = self._logs.tails(known, seen)
                failed = failed_attempt(seen, stage) if stage.stage in GANGS else None
                note.reading = (self._logs.last_progress(known, failed, now) if failed else None) or note.reading
            old = before.of(stage.stage, stage.step).state
            if stage.state is StageState.COMPLETE and old is not StageState.COMPLETE:
                lines = self._logs.last_lines(known, seen, stage)
                if (progress := progress_in(lines, stage.stage)) is not None:
                    note.reading = Reading(entry_name(stage.stage, stage.step), stage.attempt, progress, now)
                if cached_in(lines, stage.stage):
                    stages[index] = replace(stage, state=StageState.CACHED)
        return replace(after, stages=tuple(stages))

    def _progress_interval(self) -> float:
        """Seconds between two readings of a run's log: with many runs each is read less often."""
        return _progress_interval(len(self._active))

    def _ask_again_s(self, note: _Note) -> float:
        """Seconds after which the answer about the same object is old: soon at first, then as seldom as logs are read."""
        return min(self._progress_interval(), FIRST_ASK_AGAIN_S * 2.0 ** max(0, min(note.asks, 8) - 1))

    def _write(self, known: KnownRun, new: Status, note: _Note, now: float) -> KnownRun:
        """Write the status if it changed; returns the run as it is then."""
        document, there = wire(new), known.document["status"]
        note.owes_counts = document != there and _can_wait(there, new, document)
        if document == there or (note.owes_counts and note.wrote_at <= now < note.wrote_at + self._progress_interval()):
            return known
        note.owes_counts, note.wrote_at = False, now
        written = known_run(self._cluster.write_status(known.namespace, known.name, known.version, document))
        self._runs.put(written)
        if has_ended(new):
            self._active.discard(known.key)
            self._poke([other.key for other in self._runs.sharing_output(known)])
        return written

    def _tell(self, known: KnownRun, before: Status, after: Status, now: float) -> None:
        for item in news(before, after):
            logger.info(
                "%s", item.message, extra={"run": known.name, "namespace": known.namespace, "reason": item.reason}
            )
            try:
                self._cluster.write_event(known.namespace, event(known, item, now))
            except ClusterError as error:
                logger.warning("cannot write an Event for %s/%s: %s", known.namespace, known.name, error)

    def _next(
        self, known: KnownRun, decided: Plan, seen: list[Seen], note: _Note, problem: Problem | None, now: float
    ) -> float | None:
        changed, note.problem = problem != note.problem, problem
        note.problems = note.problems + 1 if problem is not None else 0
        living = any(each.attempt.state in _LIVING for each in seen)
        (self._active.add if living else self._active.discard)(known.key)
        due = [at - now for each in seen for at in _due(each)]
        if decided.wake_at is not None:
            due.append(decided.wake_at - now)
        if living:
            since, interval = now - note.read_at, self._progress_interval()
            due.append(interval - since if 0 <= since < interval else interval)
        if any(each.ask_events or (each.job is not None and each.job.suspended) for each in seen) and living:
            due.append(self._ask_again_s(note))
        if note.owes_counts:
            due.append(note.wrote_at + self._progress_interval() - now)
        if problem is not None:
            due.append(min(MOST_PROBLEM_WAIT_S, PROBLEM_WAIT_S * 2.0 ** min(note.problems - 1, 8)))
        return 0.0 if changed else min((wait for wait in due if wait > 0), default=None)


def _progress_interval(active: int) -> float:
    return max(10.0, 0.05 * active)


def _can_wait(there: Mapping[str, Any], new: Status, document: Mapping[str, Any]) -> bool:
    """Whether a status differs from what is there in pod counts only, with pods still missing: ten pods come one by one."""
    if new.pods is None or new.pods.ready == new.pods.desired:
        return False
    return {**there, "pods": None} == {**document, "pods": None}


_LIVING: Final = frozenset({AttemptState.PENDING, AttemptState.RUNNING})


def _due(seen: Seen) -> list[float]:
    """When an attempt may look different though nothing is heard of it."""
    if seen.job is None and not seen.pods:
        return []
    due = [seen.settles_at] if seen.settles_at is not None else []
    if seen.job is not None and seen.attempt.state is AttemptState.PENDING:
        due.append(seen.job.created_at + 6.0)
    for pod in seen.pods:
        if pod.ended or pod.name in seen.lost:
            continue
        if pod.deleted_at is not None:
            due.append(pod.deleted_at + GONE_AFTER_S)
        if pod.started_at is not None and pod.not_ready_since is not None:
            due.append(pod.not_ready_since + LOST_AFTER_S)
    return due
