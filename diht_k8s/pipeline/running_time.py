"""The running time of a run: from each attempt's admission to its end, without queues, waits and suspensions. Pure.

An attempt that waits for another run, which computes the same training, is such a wait.

It adds up intervals between timestamps of Jobs and pods (or of local processes), which the status remembers: how often
the operator reconciles, and whether it was away, changes nothing. The one exception is an attempt that vanishes while
nobody is there to see its end; it counts until it is missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.run_status import RunStatus


def with_running_time(status: RunStatus, attempts: Iterable[Attempt], now: float) -> RunStatus:
    """The status with the running time of its attempts; `now` is seconds since the epoch."""
    timed = sorted((each for each in attempts if not each.waits), key=_order)
    for attempt in timed:
        if attempt.ended_at is not None:
            status = _closed(status, attempt.started_at, attempt.ended_at)
    running = [each for each in timed if each.ended_at is None and _runs(each)]
    began = [each.started_at for each in running if each.started_at is not None]
    if status.running_since is None:
        return replace(status, running_since=max(min(began), status.ran_until)) if began else status
    return status if running else _closed(status, None, now)


def running_seconds(status: RunStatus, now: float) -> float:
    """Seconds that the run has run until `now`."""
    return status.ran_seconds + (max(0.0, now - status.running_since) if status.running_since is not None else 0.0)


def deadline_at(status: RunStatus, deadline_s: int | None) -> float | None:
    """When the deadline is over if the run goes on running; None while its time stands still, or without a deadline."""
    if deadline_s is None or status.running_since is None:
        return None
    return status.running_since + deadline_s - status.ran_seconds


def _runs(attempt: Attempt) -> bool:
    """Whether programs of an attempt run; one in a queue has not started, one without a Job no longer says when."""
    living = attempt.state in (AttemptState.PENDING, AttemptState.RUNNING) or attempt.active > 0
    return living and (attempt.started_at is not None or attempt.ending)


def _order(attempt: Attempt) -> float:
    known = (time for time in (attempt.started_at, attempt.ended_at) if time is not None)
    return next(known, float("inf"))


def _closed(status: RunStatus, started_at: float | None, ended_at: float) -> RunStatus:
    """The status with an interval that has ended; one that it includes already changes nothing."""
    since = status.running_since if status.running_since is not None else started_at
    if ended_at <= status.ran_until or since is None or ended_at < since:
        return status
    seconds = int(ended_at - max(since, status.ran_until))
    return replace(status, ran_seconds=status.ran_seconds + seconds, ran_until=ended_at, running_since=None)
