"""The end of a replica's time: it writes nothing more, and takes its own name off the Lease, nobody else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from diht_k8s.controller.lease import Lease


class Api:
    """The Lease as the API server has it."""

    def __init__(self, holder: str) -> None:
        self.lease = SimpleNamespace(spec=SimpleNamespace(holder_identity=holder), version=7)
        self.wrote: list[str | None] = []
        self.failure: Exception | None = None

    def read_namespaced_lease(self, name: str, namespace: str, **_: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return self.lease

    def replace_namespaced_lease(self, name: str, namespace: str, body: Any, **_: Any) -> Any:
        self.wrote.append(body.spec.holder_identity)
        return body


def lease_of(api: Api, now: list[float]) -> Lease:
    found = Lease(client.ApiClient(), "ns", "diht-operator", "me", clock=lambda: now[0])
    found._api = found._lock.api_instance._api = api
    return found


@pytest.mark.parametrize(("holder", "wrote"), [("me", [None]), ("another", []), ("", [])])
def test_release_takes_its_own_name_off_and_no_other(holder: str, wrote: list[str | None]) -> None:
    api = Api(holder)
    lease = lease_of(api, [0.0])
    lease.close()
    lease.release()
    assert api.wrote == wrote


def test_closed_lease_is_not_held_whatever_was_renewed_and_is_not_renewed_again() -> None:
    api = Api("me")
    lease = lease_of(api, [0.0])
    lease._renewed(0.0)
    assert lease.held()
    lease.close()
    lease._renewed(0.0)
    assert not lease.held()
    with pytest.raises(ApiException, match="closed"):
        lease._lock.api_instance.replace_namespaced_lease("diht-operator", "ns", api.lease)
    assert api.wrote == []


def test_release_without_the_right_to_is_no_error() -> None:
    api = Api("me")
    api.failure = ApiException(status=403, reason="Forbidden")
    lease = lease_of(api, [0.0])
    lease.close()
    lease.release()
    assert api.wrote == []
