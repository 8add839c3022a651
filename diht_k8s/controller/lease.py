"""Active/passive by a Lease: the client's own election, made to survive an API server that does not answer.

A replica that cannot renew in time stops at once, before another may take over: it has until then what it knows, and no right to act on it.
"""

from __future__ import annotations

import logging
import threading
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


class _Lock(LeaseLock):
    """A Lease whose calls end in time, and whose network errors are answers as well."""

    def __init__(self, api: client.ApiClient, namespace: str, name: str, identity: str) -> None:
        super().__init__(name, namespace, identity)
        leases = client.CoordinationV1Api(api)
        self.api_instance: Any = _InTime(leases)


class _InTime:
    """The calls of an API with a time limit; no answer is an ApiException like any other."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._api, name)

        def in_time(*arguments: Any, **options: Any) -> Any:
            try:
                return call(*arguments, **options, _request_timeout=CALL_S)
            except urllib3.exceptions.HTTPError as error:
                failure = ApiException(status=503, reason=type(error).__name__)
                failure.body = _UNREACHABLE
                raise failure from error

        return in_time


def elect(
    api: client.ApiClient,
    namespace: str,
    name: str,
    identity: str,
    *,
    won: Callable[[], None],
    lost: Callable[[], None],
) -> None:
    """Take part in the election from a thread: `won` is called when this replica leads, `lost` when it does no longer."""
    lock = _Lock(api, namespace, name, identity)
    settings = Config(lock, LEASE_S, RENEW_S, RETRY_S, onstarted_leading=won, onstopped_leading=lost)
    logging.getLogger("leaderelection").setLevel(logging.WARNING)
    threading.Thread(target=LeaderElection(settings).run, name="lease", daemon=True).start()
