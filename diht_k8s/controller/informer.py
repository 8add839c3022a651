"""A mirror of the Jobs and pods that carry our label: list once, then watch; each object is reduced while it is read.

One thread for each kind. Lists are paged; a watch ends by itself after a minute, so that a dead connection is noticed.
After `410 Gone` or any other error it lists again, for as long as it takes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

import urllib3

from diht_k8s.controller import metrics
from diht_k8s.kube.client import PAGE, ClusterError
from diht_k8s.kube.summaries import RUN_LABEL, Document, JobSummary, PodSummary, Unreadable

logger = logging.getLogger(__name__)

WATCH_S: Final = 50
"""The server ends a watch after this time; with READ_S a silent connection costs little more than a minute."""
READ_S: Final = 60.0
FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 10.0
MAX_SKIPPED: Final = 1000
"""Objects that cannot be read and are remembered, so that each is logged once."""
Summary = TypeVar("Summary", JobSummary, PodSummary)


class Gone(Exception):  # noqa: N818 (a state, not a fault)
    """The server no longer has the version from which the watch would resume."""


class Informer(Generic[Summary]):
    """Summaries of one kind of object, by run."""

    def __init__(
        self,
        kind: str,
        listing: Callable[..., Any],
        reduce: Callable[[Document], Summary | Unreadable | None],
        changed: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            kind: for log lines.
            listing: the list call, which returns a response that can be streamed.
            reduce: object -> summary; None and Unreadable skip it. It never raises.
            changed: called with namespace and name of a run whose objects changed, from the informer's thread.
            clock: seconds, monotonic.
        """
        self._kind, self._listing, self._reduce, self._changed, self._clock = kind, listing, reduce, changed, clock
        self._lock = threading.Lock()
        self._by_run: dict[tuple[str, str], dict[str, Summary]] = {}
        self._run_of: dict[str, tuple[str, str]] = {}
        self._skipped: set[Unreadable] = set()
        self.synced = threading.Event()
        self.alive_at = clock()
        """when the thread last made progress: an answer, or an error that it handled"""
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"informer-{self._kind}", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end after its present request."""
        self._stop.set()

    def of(self, namespace: str, run: str) -> list[Summary]:
        """The summaries of a run's objects."""
        with self._lock:
            return list(self._by_run.get((namespace, run), {}).values())

    def put(self, document: Document) -> None:
        """Take in an object that we have just created, before the watch reports it."""
        if (summary := self._read(document)) is not None:
            self._store(summary)

    def __len__(self) -> int:
        return len(self._run_of)

    def _run(self) -> None:
        wait_s, version = FIRST_WAIT_S, None
        while not self._stop.is_set():
            try:
                version = self._list() if version is None else self._watch(version)
                wait_s = FIRST_WAIT_S
                continue
            except Gone:
                version = None
            except (ClusterError, urllib3.exceptions.HTTPError, ValueError) as error:
                self.alive_at = self._clock()
                logger.warning("watching %ss broke off, trying again in %.1f s: %s", self._kind, wait_s, error)
                if isinstance(error, ClusterError) and error.status:
                    version = None
            except Exception:  # the thread must not die: without it no run of the cluster gets a status
                self.alive_at = self._clock()
                logger.exception("watching %ss failed, listing again in %.1f s", self._kind, wait_s)
                version = None
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    def _list(self) -> str:
        """List everything and drop what is no longer there. Returns the version to watch from."""
        found: dict[str, Summary] = {}
        token, version = None, ""
        while True:
            options = {"_continue": token} if token else {}
            response = self._listing(label_selector=RUN_LABEL, limit=PAGE, **options)
            page = json.loads(response.data)
            self.alive_at = self._clock()
            for item in page.pop("items") or ():
                if (summary := self._read(item)) is not None:
                    found[summary.uid] = summary
            token, version = page["metadata"].get("continue"), page["metadata"]["resourceVersion"]
            if not token:
                break
        for uid in [uid for uid in self._run_of if uid not in found]:
            self._remove(uid)
        for summary in found.values():
            self._store(summary)
        self.synced.set()
        return version

    def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; returns the version to resume from."""
        response = self._listing(
            label_selector=RUN_LABEL,
            resource_version=version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_S,
            _request_timeout=(5.0, READ_S),
        )
        self.alive_at = self._clock()
        try:
            for line in lines(response.stream(1 << 16, decode_content=True)):
                event = json.loads(line)
                self.alive_at = self._clock()
                version = self._take(event) or version
                if self._stop.is_set():
                    break
        finally:
            response.close()
        self.alive_at = self._clock()
        return version

    def _take(self, event: dict[str, Any]) -> str | None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Gone
            raise ClusterError(item.get("code", 500), item.get("reason", ""), item.get("message", ""))
        if kind == "DELETED":
            self._remove(item["metadata"]["uid"])
        elif kind != "BOOKMARK":
            if (summary := self._read(item)) is not None:
                self._store(summary)
            else:  # its labels may have changed
                self._remove(item["metadata"]["uid"])
        return item["metadata"]["resourceVersion"]

    def _read(self, document: Document) -> Summary | None:
        """The summary of an object; one that cannot be read is counted, and logged once."""
        summary = self._reduce(document)
        if not isinstance(summary, Unreadable):
            return summary
        metrics.SKIPPED.labels(self._kind, summary.reason).inc()
        if summary not in self._skipped:
            if len(self._skipped) >= MAX_SKIPPED:
                self._skipped.clear()
            self._skipped.add(summary)
            namespace, name, uid = summary.identity
            logger.warning("%s %s/%s (%s) is skipped: %s", self._kind, namespace, name, uid, summary.reason)
        return None

    def _store(self, summary: Summary) -> None:
        key = (summary.namespace, summary.run)
        with self._lock:
            known = self._by_run.setdefault(key, {})
            old = known.get(summary.uid)
            if old is not None and int(old.version) >= int(summary.version):
                return
            known[summary.uid], self._run_of[summary.uid] = summary, key
        if old is None or replace(old, version=summary.version) != summary:
            self._changed(*key)

    def _remove(self, uid: str) -> None:
        with self._lock:
            key = self._run_of.pop(uid, None)
            if key is None:
                return
            known = self._by_run[key]
            del known[uid]
            if not known:
                del self._by_run[key]
        self._changed(*key)


def lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream."""
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest
