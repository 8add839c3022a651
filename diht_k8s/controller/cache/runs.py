"""Runs at their newest version, fed by their watch and by our own writes. Thread-safe.

A version that is older than the one here is dropped, so that a late event never takes back what we have just written. A
run that has ended takes some hundred bytes: a namespace may keep thousands of them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.api.base import seconds
from diht_k8s.api.errors import UserError
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.run import API_VERSION, DihtRun, other_manager
from diht_k8s.api.schema.crd import KIND
from diht_k8s.api.status import Status
from diht_k8s.api.status_reading import ReadStatus, read_status
from diht_k8s.controller.cache.watch import WATCH_S, Watch
from diht_k8s.kube.object_fields import Document, Unreadable, identity

Key = tuple[str, str]
"""Namespace and name."""
ENDS: Final = (ConditionType.COMPLETE, ConditionType.FAILED)
RUN_PAGE: Final = 200
"""Runs in one answer of a list: one has up to 10 KB of status, and most are forgotten as soon as they are read."""
RETRY_ANNOTATION = "diht.dev/retry"
"""Its value is the completionTime of the failure to retry (`diht retry` sets it)."""


@dataclass(frozen=True)
class CachedRun:
    """One run as the API server had it at a version."""

    namespace: str
    name: str
    uid: str
    version: str
    """resourceVersion."""
    generation: int
    document: Mapping[str, Any]
    deleting: bool = False

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @functools.cached_property
    def read(self) -> ReadStatus:
        """Its status, and what of it is unknown."""
        return read_status(self.document.get("status"))

    @property
    def status(self) -> Status:
        """Its status; an empty one if there is none yet."""
        return self.read.status

    @property
    def managed_elsewhere(self) -> bool:
        """Whether `spec.managedBy` gives it to another controller."""
        return other_manager(self.document["spec"]) is not None

    @property
    def retry(self) -> str:
        """The completionTime of the failure that a person wants to retry."""
        return (self.document["metadata"].get("annotations") or {}).get(RETRY_ANNOTATION, "")

    def parsed(self) -> DihtRun:
        """The run as our models read it.

        Raises:
            UserError: they cannot read it (an operator that is older than the CRD).
        """
        metadata = {"name": self.name, "namespace": self.namespace}
        document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self.document["spec"]}
        try:
            return DihtRun.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"this operator cannot read the spec: {where}: {first['msg']}") from error

    @property
    def owner_reference(self) -> dict[str, Any]:
        """The owner reference that makes an object a child of this run."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }


def cached_run(document: Mapping[str, Any]) -> CachedRun:
    """A run from its JSON, without managedFields."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    spec = document.get("spec") or {}
    return CachedRun(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        document={"metadata": metadata, "spec": spec, "status": document.get("status") or {}},
        deleting="deletionTimestamp" in metadata,
    )


@dataclass(slots=True)
class FinishedRun:
    """What is kept of a run that has ended, until it changes: some hundred bytes in place of its document."""

    uid: str
    version: int
    """resourceVersion."""
    ended_at: float
    """seconds since the epoch."""
    expires_at: float | None
    """when to delete it, seconds since the epoch; None keeps it."""
    surplus: bool = False
    """whether its namespace has more finished runs than it may keep, and newer ones."""

    def is_due(self, now: float) -> bool:
        """Whether it is to be deleted."""
        return self.surplus or (self.expires_at is not None and now >= self.expires_at)


def ended_at(run: CachedRun) -> float | None:
    """When a run ended; None if it has not, or if something is left to do: a changed spec, a retry, its deletion.

    It reads the document as it is, since each event of each run passes here.
    """
    status = run.document["status"]
    ends = [
        each for each in status.get("conditions") or () if each.get("type") in ENDS and each.get("status") == "True"
    ]
    if not ends or run.deleting or status.get("observedGeneration", 0) != run.generation:
        return None
    time = status.get("completionTime")
    if run.retry and run.retry == time and ends[0]["type"] == ConditionType.FAILED:
        return None
    return seconds(time) or 0.0


class RunStore:
    """All runs by key: whole while they need something, a few fields afterwards."""

    def __init__(self, *, ttl_s: float | None = None, history_limit: int | None = None) -> None:
        """Make an empty one.

        Args:
            ttl_s: seconds for which a finished run stays that does not say so itself; None for ever.
            history_limit: number of finished runs that a namespace keeps; None keeps all.
        """
        self._ttl_s, self._history_limit = ttl_s, history_limit
        self._lock = threading.Lock()
        self._unfinished: dict[Key, CachedRun] = {}
        self._finished: dict[str, dict[str, FinishedRun]] = {}
        """by namespace, then by name."""
        self._parsed: dict[str, tuple[int, DihtRun]] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._unfinished) + sum(map(len, self._finished.values()))

    def keys(self) -> list[Key]:
        """The keys of the runs that have not ended."""
        with self._lock:
            return list(self._unfinished)

    def running(self) -> set[Key]:
        """The keys of the runs whose status says that an attempt runs."""
        with self._lock:
            return {key for key, run in self._unfinished.items() if _runs(run.document["status"])}

    def uids(self) -> list[tuple[Key, str]]:
        """Key and UID of all runs."""
        with self._lock:
            ended = [((space, name), run.uid) for space, runs in self._finished.items() for name, run in runs.items()]
            return [*ended, *((key, run.uid) for key, run in self._unfinished.items())]

    def name_of(self, namespace: str, uid: str) -> str:
        """The name of a run of a namespace; empty if it has none of this UID."""
        return next((key[1] for key, found in self.uids() if found == uid and key[0] == namespace), "")

    def contains(self, key: Key) -> bool:
        """Whether there is such a run."""
        return self.get(key) is not None or self.finished(key) is not None

    def get(self, key: Key) -> CachedRun | None:
        """A run; None if it is gone or has ended."""
        with self._lock:
            return self._unfinished.get(key)

    def finished(self, key: Key) -> FinishedRun | None:
        """A run that has ended; None if it is gone or has not."""
        with self._lock:
            return self._finished.get(key[0], {}).get(key[1])

    def put(self, run: CachedRun, *, only_existing: bool = False) -> bool:
        """Store a run; False if a version at least as new is stored, or none and `only_existing`.

        A run of another controller is not stored: nothing is done for what is not here.
        """
        if run.managed_elsewhere:
            return False
        end = self._end(run)
        with self._lock:
            old = self._unfinished.get(run.key) or self._finished.get(run.namespace, {}).get(run.name)
            if (old is None and only_existing) or (old is not None and int(old.version) >= int(run.version)):
                return False
            if isinstance(old, CachedRun) and (end is not None or old.uid != run.uid):
                self._drop(old)
            if end is not None:
                self._finished.setdefault(run.namespace, {})[run.name] = end
                return True
            if old is not None and not isinstance(old, CachedRun):
                self._drop_finished(run.key)
            self._unfinished[run.key] = run
            return True

    def remove(self, key: Key, uid: str | None = None) -> bool:
        """Remove a run if its UID matches; returns whether there was one."""
        with self._lock:
            old = self._unfinished.get(key) or self._finished.get(key[0], {}).get(key[1])
            if old is None or uid not in (None, old.uid):
                return False
            if isinstance(old, CachedRun):
                self._drop(old)
            else:
                self._drop_finished(key)
            return True

    def due(self, now: float) -> list[Key]:
        """The finished runs that are to be deleted; `now` is seconds since the epoch."""
        with self._lock:
            for runs in self._finished.values():
                if self._history_limit is not None and len(runs) > self._history_limit:
                    newest_last = sorted(runs.values(), key=lambda run: run.ended_at)
                    for run in newest_last[: len(runs) - self._history_limit]:
                        run.surplus = True
            return [
                (space, name) for space, runs in self._finished.items() for name, run in runs.items() if run.is_due(now)
            ]

    def _end(self, run: CachedRun) -> FinishedRun | None:
        if (end := ended_at(run)) is None:
            return None
        ttl_s = run.document["spec"].get("ttlSecondsAfterFinished", self._ttl_s)
        return FinishedRun(run.uid, int(run.version), end, end + ttl_s if ttl_s is not None and end else None)

    def parsed(self, run: CachedRun) -> DihtRun:
        """The run as our models read it, cached for its generation until it ends.

        Raises:
            UserError: they cannot read it.
        """
        with self._lock:
            found = self._parsed.get(run.uid)
        if found is not None and found[0] == run.generation:
            return found[1]
        parsed = run.parsed()
        with self._lock:
            if run.key in self._unfinished:
                self._parsed[run.uid] = (run.generation, parsed)
        return parsed

    def _drop_finished(self, key: Key) -> None:
        runs = self._finished[key[0]]
        del runs[key[1]]
        if not runs:
            del self._finished[key[0]]

    def _drop(self, run: CachedRun) -> None:
        self._unfinished.pop(run.key, None)
        self._parsed.pop(run.uid, None)


def _runs(status: Mapping[str, Any]) -> bool:
    found = ((each.get("type"), each.get("reason")) for each in status.get("conditions") or ())
    return (ConditionType.PROGRESSING, Reason.RUNNING) in found


class RunWatch(Watch):
    """Keeps a `RunStore` equal to the API server's runs."""

    def __init__(
        self,
        listing: Callable[..., Any],
        runs: RunStore,
        changed: Callable[[Key], None],
        watch_s: int = WATCH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            listing: the list call, which returns a response that can be streamed.
            runs: the runs to keep.
            changed: called with a run that changed and may need something, or is gone, from the watch's thread.
            watch_s: seconds after which the server is to end a watch.
            clock: seconds, monotonic.
        """
        super().__init__("DihtRun", listing, page=RUN_PAGE, watch_s=watch_s, clock=clock)
        self._runs, self._changed = runs, changed

    def _add(self, document: Document) -> str | None:
        try:
            run = cached_run(document)
            existed = self._runs.contains(run.key)
            changed = self._runs.put(run)
        except Exception:  # one broken run must not end the watch of all others
            self._skip(Unreadable("Malformed", identity(document)))
            return None
        if changed and (existed or self._runs.get(run.key) is not None):  # an old end that is first seen needs nothing
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
        if self._runs.remove(key, uid):
            self._changed(key)
