"""Leader election by a Lease: the client's own election, made to survive an API server that does not answer.

A replica that could not renew in time writes nothing more and stops before another may take over: what it knows may be
old, and it has no right to act on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import urllib3
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

logger = logging.getLogger(__name__)

LEASE_S: Final = 15
RENEW_S: Final = 10
RETRY_S: Final = 2
"""Lease, renewal and retry of Kubernetes' own controllers."""
CALL_S: Final = (2.0, 4.0)
_UNREACHABLE: Final = '{"code": 503}'


class Lease:
    """One replica's part in the election."""

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one; `stand` takes part. `clock` gives seconds, monotonic: it also runs while the process is stopped."""
        self._clock, self._renewed_at, self._identity = clock, float("-inf"), identity
        self.holder = ""
        """identity of the leader when this replica last read the Lease; empty while unknown."""
        self._released = False
        self._lock: Any = LeaseLock(name, namespace, identity)
        self._api: Any = client.CoordinationV1Api(api)
        self._lock.api_instance = _TimeLimited(self._api, self._renewed, self._observed_holder, lambda: self._released)

    def stand(self, won: Callable[[], None], lost: Callable[[], None]) -> None:
        """Take part from a thread: `won` is called when this replica becomes the leader, `lost` when it stops being it."""
        settings = Config(self._lock, LEASE_S, RENEW_S, RETRY_S, onstarted_leading=won, onstopped_leading=lost)
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
            lease = self._api.read_namespaced_lease(self._lock.name, self._lock.namespace, _request_timeout=CALL_S)
            if lease.spec.holder_identity != self._identity:
                return
            lease.spec.holder_identity = None
            self._api.replace_namespaced_lease(
                self._lock.name, self._lock.namespace, lease, _request_timeout=CALL_S
            )  # of the version that was read: nobody else's can be overwritten
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            logger.info("the lease is left to expire: %s", getattr(error, "reason", type(error).__name__))

    def _observed_holder(self, lease: Any) -> None:
        """Log whom this replica stands by for, once for each leader."""
        holder = str(lease.spec.holder_identity or "")
        if holder not in ("", self.holder, self._identity):
            logger.info("this replica stands by: %s acts", holder)
        self.holder = holder

    def _renewed(self, asked_at: float) -> None:
        self._renewed_at = asked_at


class _TimeLimited:
    """The calls of an API with a time limit; no answer raises an ApiException.

    It reports what was read, and when a successful write began.
    """

    def __init__(
        self, api: Any, wrote: Callable[[float], None], read: Callable[[Any], None], closed: Callable[[], bool]
    ) -> None:
        self._api, self._wrote, self._read, self._closed = api, wrote, read, closed

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._api, name)

        def in_time(*arguments: Any, **options: Any) -> Any:
            asked_at = time.monotonic()
            if self._closed():
                raise _no_answer("closed")
            try:
                answer = call(*arguments, **options, _request_timeout=CALL_S)
            except urllib3.exceptions.HTTPError as error:
                raise _no_answer(type(error).__name__) from error
            if name.startswith(("create", "replace")):
                self._wrote(asked_at)
            elif name.startswith("read"):
                self._read(answer)
            return answer

        return in_time


def _no_answer(reason: str) -> ApiException:
    failure = ApiException(status=503, reason=reason)
    failure.body = _UNREACHABLE
    return failure
