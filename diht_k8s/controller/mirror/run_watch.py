"""The watch of runs: it feeds `Runs`, which keeps little of those that have ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from diht_k8s.controller.mirror.runs import Key, KnownRun, Runs, known_run
from diht_k8s.controller.mirror.watch import WATCH_S, Watch
from diht_k8s.kube.summaries import Document, Unreadable, identity

RUN_PAGE: Final = 200
"""Runs in one answer of a list: one has up to 10 KB of status, and most are forgotten as soon as they are read."""


class RunWatch(Watch):
    """Keeps `Runs` equal to the API server's."""

    def __init__(
        self,
        listing: Callable[..., Any],
        runs: Runs,
        changed: Callable[[Key], None],
        removed: Callable[[Key, KnownRun | None], None],
        watch_s: int = WATCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            listing: the list call, which returns a response that can be streamed.
            runs: the runs to keep.
            changed: called with a run that changed and may need something, from the watch's thread.
            removed: called with a run that is gone, and what was known of it if it had not ended.
            watch_s: seconds after which the server is to end a watch.
            clock: seconds, monotonic.
        """
        super().__init__("DihtRun", listing, page=RUN_PAGE, watch_s=watch_s, clock=clock)
        self._runs, self._changed, self._removed = runs, changed, removed

    def _add(self, document: Document) -> str | None:
        try:
            run = known_run(document)
            was_known = self._runs.knows(run.key)
            changed = self._runs.put(run)
        except Exception:  # one broken run must not end the watch of all others
            self._skip(Unreadable("Malformed", identity(document)))
            return None
        if changed and (
            was_known or self._runs.get(run.key) is not None
        ):  # an old end that is first seen needs nothing
            self._changed(run.key)
        return run.uid

    def _remove(self, metadata: Document) -> None:
        self._forget((metadata["namespace"], metadata["name"]), metadata["uid"])

    def _retain(self, uids: set[str]) -> None:
        for key, uid in self._runs.uids():
            if uid not in uids:
                self._forget(key, uid)

    def _outdate(self) -> None:
        self._retain(set())  # nothing may be written on the ground of a run that is not so any more

    def _forget(self, key: Key, uid: str) -> None:
        known = self._runs.get(key)
        if self._runs.remove(key, uid):
            self._removed(key, known)
