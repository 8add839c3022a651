"""The log of one replica, across all the pods that it has had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from diht_k8s.api.errors import RetryableError
from diht_k8s.kube.client import Cluster, lines
from diht_k8s.kube.errors import ignore_not_found

POLL_S: Final = 1.0
Pod = Mapping[str, Any]
OpenLog = Callable[[Pod, datetime | None, bool], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class ReplicaLog:
    """Where the log of a replica comes from."""

    pods: Callable[[], Sequence[Pod]]
    """the pods that the replica has had so far, oldest first."""
    container: str
    open: OpenLog
    """the lines of a pod's log, each with its time before it: pod, since when, whether to follow."""
    ended: Callable[[], bool]
    """whether no further pod will come."""
    sleep: Callable[[float], None] = time.sleep


def replica_lines(
    source: ReplicaLog, *, since: datetime | None = None, until: datetime | None = None, follow: bool = False
) -> Iterator[str]:
    """The lines of a replica, each with its newline and as the program wrote it.

    Args:
        source: where the lines come from.
        since: drops lines before this time; a time without a zone is local.
        until: drops lines after this time, and stops following there.
        follow: wait for more lines, and for the pod that replaces a failed one, until the application has ended.
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
            with suppress(*([RetryableError] if follow else [])):  # a broken stream is reopened where it ended
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
    """Whether a line is older than requested, or was printed before."""
    return (first is not None and at < first) or (newest is not None and at <= newest)


def pod_lines(
    cluster: Cluster, pod: Pod, container: str, *, since: datetime | None, now: datetime, follow: bool
) -> Iterator[str]:
    """The lines of a container's log, each behind its timestamp and without its end; none if the pod does not exist.

    Args:
        cluster: the cluster.
        pod: the pod.
        container: name of the container.
        since: drops older lines, to the second.
        now: the present time.
        follow: continue until the container ends.
    """
    metadata = pod["metadata"]
    options: dict[str, Any] = {"container": container, "timestamps": True, "follow": follow}
    if since is not None:
        options["sinceSeconds"] = max(1, int((now - since).total_seconds()) + 1)
    with ignore_not_found():
        for line in lines(cluster.log(metadata["namespace"], metadata["name"], **options)):
            yield line.decode(errors="replace")


def _timed(stamped: Iterator[str]) -> Iterator[tuple[datetime, str]]:
    """Each line apart from its timestamp; a line without one takes that of the line before."""
    at = datetime.min.replace(tzinfo=UTC)
    for line in stamped:
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
