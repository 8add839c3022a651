"""Health: what only a restart can fix; and the right to write, which ends before another replica may have it."""

from __future__ import annotations

import pytest
from kubernetes import client

from diht_k8s.controller.lease import LEASE_S, RENEW_S, Lease
from diht_k8s.controller.probes import STALE_S, stuck_watch


@pytest.mark.parametrize(
    ("since", "says"), [(STALE_S - 1, ""), (STALE_S + 1, "the watch of pods has been silent for 221 s")]
)
def test_watch_that_is_silent_for_long_is_stuck(since: float, says: str) -> None:
    assert stuck_watch({"Jobs": 1000.0, "pods": 1000.0 - since}, 1000.0) == says


def test_right_to_write_ends_before_the_lease_does() -> None:
    now = 0.0
    lease = Lease(client.ApiClient(client.Configuration()), "n", "l", "me", clock=lambda: now)
    assert not lease.held()
    lease._renewed(now)
    now = RENEW_S - 0.1
    assert lease.held()
    now = RENEW_S + 0.1
    assert not lease.held()
    assert RENEW_S < LEASE_S


def test_standby_says_for_whom_it_stands_by_once_for_each(caplog: pytest.LogCaptureFixture) -> None:
    lease = Lease(client.ApiClient(client.Configuration()), "n", "l", "me", clock=lambda: 0.0)
    holders = iter(["other", "other", None, "me", "third"])

    class Api:
        def read_namespaced_lease(self, name: str, namespace: str, **options: object) -> client.V1Lease:
            return client.V1Lease(spec=client.V1LeaseSpec(holder_identity=next(holders)))

    lease._lock.api_instance._api = Api()
    found = []
    with caplog.at_level("INFO"):
        for _ in range(5):
            lease._lock.api_instance.read_namespaced_lease("l", "n")
            found.append(lease.holder)
    assert found == ["other", "other", "", "me", "third"]
    assert [record.message for record in caplog.records] == [
        "this replica stands by: other acts",
        "this replica stands by: third acts",
    ]
