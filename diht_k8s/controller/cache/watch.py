"""A list and a watch of one kind of object, by which one thread keeps a store equal to the API server's.

Lists are paged; a watch ends by itself after a minute, so that a dead connection is noticed. After `410 Gone`, a watch
that said nothing, or an answer that is an error, it lists again, for as long as it takes. After a connection that broke
it resumes where it was, unless the API server's history has gone back meanwhile. An object that cannot be read is
skipped, counted and logged once.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import urllib3

from diht_k8s.controller import metrics
from diht_k8s.kube.client import lines
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.object_fields import Document, Unreadable

logger = logging.getLogger(__name__)

WATCH_S: Final = 50
"""Default of the time in seconds after which the server ends a watch."""
SILENCE: Final = 1.2
"""A watch that says nothing for this multiple of its time, and so has not even ended, hangs on a dead connection."""
FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 10.0
JITTER: Final = 1.2
"""Waits are up to this much longer: three watches, and the operators of many clusters, do not come back at once."""
MAX_SKIPPED: Final = 1000
"""Objects that cannot be read and are remembered, so that each is logged once."""


class Gone(Exception):  # noqa: N818 (a state, not a fault)
    """The server no longer has the version from which the watch would resume."""


class Watch(ABC):
    """Feeds a store, which a subclass adds, with one kind of object."""

    def __init__(
        self,
        kind: str,
        listing: Callable[..., Any],
        *,
        page: int,
        selector: str = "",
        watch_s: int = WATCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            kind: for log lines and metrics.
            listing: the list call, which returns a response that can be streamed.
            page: number of objects in one answer of a list.
            selector: label selector; empty takes all objects.
            watch_s: seconds after which the server is to end a watch.
            clock: seconds, monotonic.
        """
        self.kind, self._listing, self._page, self._clock = kind, listing, page, clock
        self._watch_s = watch_s
        self._query = {"labelSelector": selector} if selector else {}
        self._skipped: set[Unreadable] = set()
        self._newest = 0
        self._stop = threading.Event()
        self.synced = threading.Event()
        self.error = ""
        """the last error; empty after an answer."""
        self.alive_at = self.synced_at = clock()
        """alive_at: when the thread last made progress, an answer or an error that it handled. synced_at: when the API
        server last answered; the store is at most that old."""

    @abstractmethod
    def _add(self, document: Document) -> str | None:
        """Store an object unless it is older than the stored one; returns its UID, None if it is no concern of ours."""

    @abstractmethod
    def _remove(self, metadata: Document) -> None:
        """Remove an object."""

    @abstractmethod
    def _retain(self, uids: set[str]) -> None:
        """Remove all objects but these."""

    @abstractmethod
    def _outdate(self) -> None:
        """Take the next list's version of each object, even if it is older than the stored one."""

    def start(self) -> None:
        """Start the thread."""
        metrics.SYNC_AGE.labels(self.kind).set_function(lambda: self._clock() - self.synced_at)
        threading.Thread(target=self._run, name=f"watch-{self.kind}", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end after its present request."""
        self._stop.set()

    def unready(self) -> str:
        """Why the store cannot be used yet; empty if it can."""
        if self.synced.is_set():
            return ""
        return f"{self.kind}s are not listed yet" + (f": {self.error}" if self.error else "")

    def _answered(self) -> None:
        self.alive_at = self.synced_at = self._clock()
        self.error = ""

    def _failed(self, error: Exception) -> None:
        self.alive_at = self._clock()
        metrics.WATCH_FAILURES.labels(self.kind).inc()
        self.error = f"{type(error).__name__}: {error}"[:500]

    def _run(self) -> None:
        wait_s, version, broke = FIRST_WAIT_S, None, False
        while not self._stop.is_set():
            try:
                if version is not None and broke and self._went_back(version):
                    version = None
                version = self._list() if version is None else self._watch(version)
                wait_s, broke = FIRST_WAIT_S, False
                continue
            except Gone:
                version = None
            except (ClusterError, urllib3.exceptions.HTTPError, ValueError) as error:
                self._failed(error)
                broke, answered = True, isinstance(error, ClusterError) and bool(error.status)
                wait_s = max(wait_s, error.retry_after_s if isinstance(error, ClusterError) else 0.0)
                logger.warning("watching %ss broke off, trying again in %.1f s: %s", self.kind, wait_s, error)
                if answered or _is_silence(error):
                    version = None
            except Exception as error:  # the thread must not die: without it no run of the cluster gets a status
                self._failed(error)
                logger.exception("watching %ss failed, listing again in %.1f s", self.kind, wait_s)
                version = None
            self._stop.wait(wait_s * random.uniform(1.0, JITTER))
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    def _went_back(self, version: str) -> bool:
        """Whether the API server's history ends before a version of ours, as after etcd was restored to a snapshot.

        It would take a watch from there, and say nothing until its history has grown past that version.
        """
        page = json.loads(self._listing(limit=1, **self._query).data)
        return int(page["metadata"]["resourceVersion"]) < max(self._newest, int(version))

    def _list(self) -> str | None:
        """List everything and drop what is no longer there. Returns the version to watch from; None to list again."""
        found: set[str] = set()
        token, version = None, ""
        while True:
            query = {**self._query, **({"continue": token} if token else {})}
            response = self._listing(limit=self._page, **query)
            page = json.loads(response.data)
            self._answered()
            token, version = page["metadata"].get("continue"), page["metadata"]["resourceVersion"]
            self._check_history(version)
            for item in page.pop("items") or ():
                if (uid := self._add(item)) is not None:
                    found.add(uid)
            if not token:
                break
        self._retain(found)
        self.synced.set()
        return version

    def _check_history(self, version: str) -> None:
        """After etcd was restored to an older snapshot, what we have is newer than what there is."""
        if int(version) < self._newest:
            logger.warning("%ss: the API server's history went back to %s: reading all again", self.kind, version)
            self._outdate()
        self._newest = int(version)

    def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; returns the version to resume from."""
        response = self._listing(
            timeout_s=(5.0, SILENCE * self._watch_s),
            **self._query,
            resourceVersion=version,
            watch=True,
            allowWatchBookmarks=True,
            timeoutSeconds=self._watch_s,
        )
        self._answered()
        try:
            for line in lines(response.stream(1 << 16, decode_content=True)):
                if not line:
                    continue
                event = json.loads(line)
                self._answered()
                version = self._take(event) or version
                if self._stop.is_set():
                    break
        finally:
            response.close()
        self._answered()
        return version

    def _take(self, event: dict[str, Any]) -> str | None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item.get("code") == 410:
                raise Gone
            raise ClusterError(item.get("code", 500), item.get("reason", ""), item.get("message", ""))
        version = item["metadata"]["resourceVersion"]
        if kind == "DELETED" or (kind != "BOOKMARK" and self._add(item) is None):  # or its labels have changed
            self._remove(item["metadata"])
        self._newest = max(self._newest, int(version))
        return version

    def _skip(self, found: Unreadable) -> None:
        """Count an object that cannot be read; log it once."""
        metrics.SKIPPED.labels(self.kind, found.reason).inc()
        if found not in self._skipped:
            if len(self._skipped) >= MAX_SKIPPED:
                self._skipped.clear()
            self._skipped.add(found)
            namespace, name, uid = found.identity
            logger.warning("%s %s/%s (%s) is skipped: %s", self.kind, namespace, name, uid, found.reason)


def _is_silence(error: Exception) -> bool:
    """Whether a connection was open and nothing came, before or after the answer's headers."""
    cause = error.__cause__ if isinstance(error, ClusterError) else error
    return isinstance(getattr(cause, "reason", cause), urllib3.exceptions.ReadTimeoutError)
