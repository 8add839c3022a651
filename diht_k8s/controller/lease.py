"""Leader election by a Lease: the library's own election, made to survive an API server that does not answer.

A replica that could not renew in time writes nothing more and stops before another may take over: what it knows may be
old, and it has no right to act on it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final

from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection
from kubernetes.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

from diht_k8s.kube.connection import KINDS, Connection
from diht_k8s.kube.errors import ClusterError

logger = logging.getLogger(__name__)

LEASE_S: Final = 15
RENEW_S: Final = 10
RETRY_S: Final = 2
"""Lease, renewal and retry of Kubernetes' own controllers."""
CALL_S: Final = (2.0, 4.0)
Json = dict[str, Any]


class Lease:
    """One replica's part in the election."""

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `stand` takes part. `clock` gives seconds, monotonic: it also runs while the process is stopped."""
        self.namespace, self.name, self.identity = namespace, name, identity
        self._connection, self._clock = connection, clock
        self._renewed_at, self._released = float("-inf"), False
        self.holder = ""
        """identity of the leader when this replica last read the Lease; empty while unknown."""

    def stand(self, won: Callable[[], None], lost: Callable[[], None]) -> None:
        """Take part from a thread: `won` is called when this replica becomes the leader, `lost` when it stops being
        it.
        """
        settings = Config(_Lock(self), LEASE_S, RENEW_S, RETRY_S, onstarted_leading=won, onstopped_leading=lost)
        logging.getLogger("leaderelection").setLevel(logging.WARNING)
        threading.Thread(target=LeaderElection(settings).run, name="lease", daemon=True).start()

    def held(self) -> bool:
        """Whether this replica may write: no other can hold the Lease yet, whatever happened since the last renewal."""
        return not self._released and self._clock() < self._renewed_at + RENEW_S

    def close(self) -> None:
        """Write nothing from now on, neither as the one that acts nor to the Lease itself."""
        self._released = True

    def release(self) -> None:
        """Take this replica's name off the Lease, so that the next one need not wait until it expires.

        Call it after `close`, when no write is under way. A failure (an uninstall may remove the rights first) does no
        harm: the Lease expires.
        """
        assert self._released, "close first"
        try:
            lease = self._ask("GET")
            if lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = None
                self._ask("PUT", lease)  # of the version that was read: nobody else's can be overwritten
        except ClusterError as error:
            logger.info("the lease is left to expire: %s", error.reason)

    def read(self) -> Json:
        """The Lease, whose holder is logged once for each other leader.

        Raises:
            ClusterError: no answer, or none is wanted any more.
        """
        self._must_be_open()
        lease = self._ask("GET")
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        if holder not in ("", self.holder, self.identity):
            logger.info("this replica stands by: %s acts", holder)
        self.holder = holder
        return lease

    def write(self, lease: Json) -> None:
        """Create the Lease, or replace the one that was read; this replica holds it from the call's beginning.

        Raises:
            ClusterError: no answer, or none is wanted any more.
        """
        asked_at = self._clock()
        self._must_be_open()
        self._ask("PUT" if "resourceVersion" in lease["metadata"] else "POST", lease)
        self._renewed_at = asked_at

    def _must_be_open(self) -> None:
        if self._released:
            raise ClusterError(0, "Closed", "this replica takes no part any more")

    def _ask(self, method: str, body: Json | None = None) -> Json:
        path = KINDS["Lease"].path(self.namespace, *(() if method == "POST" else (self.name,)))
        what = f"{method} lease {self.namespace}/{self.name}"
        return self._connection.json(what, method, path, body=body, timeout_s=CALL_S)


class _Lock(LeaseLock):
    """The Lease as the library's election asks for it, in plain JSON."""

    def __init__(self, lease: Lease) -> None:
        self._lease, self._document = lease, Json()
        self.name, self.namespace, self.identity = lease.name, lease.namespace, lease.identity

    def get(self, name: str, namespace: str) -> Any:
        """Whether it could be read, and the record or why not."""
        try:
            self._document = self._lease.read()
        except ClusterError as error:
            return False, SimpleNamespace(body=json.dumps({"code": error.status or 503}), reason=error.reason)
        spec = self._document.get("spec") or {}
        seconds, times = spec.get("leaseDurationSeconds"), [spec.get(key) for key in ("acquireTime", "renewTime")]
        read = [self.time_from_utc(datetime.fromisoformat(each)) if each else None for each in times]
        return True, LeaderElectionRecord(spec.get("holderIdentity") or None, str(seconds) if seconds else None, *read)

    def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Create the Lease; whether that succeeded."""
        return self._write(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}, election_record
        )

    def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Replace the Lease that was read; whether that succeeded."""
        return self._write(self._document, updated_record)

    def _write(self, lease: Mapping[str, Any], record: LeaderElectionRecord) -> bool:
        spec = {
            "holderIdentity": record.holder_identity,
            "leaseDurationSeconds": int(record.lease_duration),
            "acquireTime": self.time_str_to_iso(record.acquire_time).isoformat(timespec="microseconds"),
            "renewTime": self.time_str_to_iso(record.renew_time).isoformat(timespec="microseconds"),
        }
        try:
            self._lease.write({**lease, "spec": {**(lease.get("spec") or {}), **spec}})
        except ClusterError as error:
            logger.debug("the lease is not written: %s", error)
            return False
        return True
