"""List once, then watch: one thread keeps a store of one kind of object equal to the API server's.

Lists are paged; a watch ends by itself after a minute, so that a dead connection is noticed. After `410 Gone` or any
other error it lists again, for as long as it takes. An object that cannot be read is skipped, counted and logged once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import urllib3

from diht_k8s.controller import metrics
from diht_k8s.kube.client import ClusterError, lines
from diht_k8s.kube.summaries import Document, Unreadable

logger = logging.getLogger(__name__)

WATCH_S: Final = 50
"""The server ends a watch after this time; with READ_S a silent connection costs little more than a minute."""
READ_S: Final = 60.0
FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 10.0
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            kind: for log lines and metrics.
            listing: the list call, which returns a response that can be streamed.
            page: number of objects in one answer of a list.
            selector: label selector; empty takes all objects.
            clock: seconds, monotonic.
        """
        self.kind, self._listing, self._page, self._clock = kind, listing, page, clock
        self._options = {"label_selector": selector} if selector else {}
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
        self.error = f"{type(error).__name__}: {error}"[:500]

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
                self._failed(error)
                logger.warning("watching %ss broke off, trying again in %.1f s: %s", self.kind, wait_s, error)
                if isinstance(error, ClusterError) and error.status:
                    version = None
            except Exception as error:  # the thread must not die: without it no run of the cluster gets a status
                self._failed(error)
                logger.exception("watching %ss failed, listing again in %.1f s", self.kind, wait_s)
                version = None
            self._stop.wait(wait_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    def _list(self) -> str:
        """List everything and drop what is no longer there. Returns the version to watch from."""
        found: set[str] = set()
        token, version = None, ""
        while True:
            options = {**self._options, **({"_continue": token} if token else {})}
            response = self._listing(limit=self._page, **options)
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
            self._retain(set())
        self._newest = int(version)

    def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; returns the version to resume from."""
        response = self._listing(
            **self._options,
            resource_version=version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_S,
            _request_timeout=(5.0, READ_S),
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
