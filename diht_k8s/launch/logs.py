"""The log of one replica, through all the pods that it has had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from diht_k8s.api.errors import RetryableError

POLL_S: Final = 1.0
Pod = Mapping[str, Any]
OpenLog = Callable[[Pod, datetime | None, bool], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the log of a replica comes from."""

    pods: Callable[[], Sequence[Pod]]
    """the pods that the replica has had, oldest first."""
    container: str
    open: OpenLog
    """the lines of a pod's log, each with its time before it: pod, since when, whether to follow."""
    ended: Callable[[], bool]
    """whether no further pod will come."""
    sleep: Callable[[float], None] = time.sleep


def replica_lines(
    source: Source, *, since: datetime | None = None, until: datetime | None = None, follow: bool = False
) -> Iterator[str]:
    """The lines of a replica, each with its newline and as the program wrote it.

    Args:
        source: where they come from.
        since: lines before this are left out; without a time zone it is local time.
        until: lines after this are left out, and following ends there.
        follow: wait for further lines, and for the pod that takes a failed one's place, until the application has ended.
    """
    first, last = _aware(since), _aware(until)
    newest: dict[str, datetime] = {}
    done: set[str] = set()
    while True:
        ended = source.ended()
        for pod in source.pods():
            uid = pod["metadata"]["uid"]
            if uid in done or not _started(pod, source.container):
                continue
            seen = newest.get(uid)
            with suppress(*([RetryableError] if follow else [])):  # the stream broke: it is opened again where it was
                for at, text in _timed(source.open(pod, seen or first, follow)):
                    if last is not None and at > last:
                        return
                    if _is_old(at, first, seen):
                        continue
                    newest[uid] = at
                    yield text + "\n"
            if _finished(pod, source.container):
                done.add(uid)
        if not follow or ended:
            return
        source.sleep(POLL_S)


def _is_old(at: datetime, first: datetime | None, newest: datetime | None) -> bool:
    """Whether a line is older than asked for, or was there before."""
    return (first is not None and at < first) or (newest is not None and at <= newest)


def _timed(lines: Iterator[str]) -> Iterator[tuple[datetime, str]]:
    """Each line apart from the time before it; what has none takes the time of the line before."""
    at = datetime.min.replace(tzinfo=UTC)
    for line in lines:
        stamp, _, text = line.partition(" ")
        try:
            at = datetime.fromisoformat(stamp)
        except ValueError:
            text = line
        yield at, text


def _aware(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment is not None else None


def _state(pod: Pod, container: str) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((item["state"] for item in statuses if item["name"] == container), {})


def _started(pod: Pod, container: str) -> bool:
    return bool(_state(pod, container).keys() & {"running", "terminated"})


def _finished(pod: Pod, container: str) -> bool:
    return "terminated" in _state(pod, container)
