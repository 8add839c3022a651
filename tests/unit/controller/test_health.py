"""Health: what only a restart can fix; and the right to write, which ends before another replica may have it."""

from __future__ import annotations

import pytest

from diht_k8s.controller.lease import LEASE_S, RENEW_S, Lease
from diht_k8s.controller.operator import STALE_S, stuck_watch
from tests.unit.kube.api_server import ApiServer


@pytest.mark.parametrize(
    ("since", "says"), [(STALE_S - 1, ""), (STALE_S + 1, "the watch of pods has been silent for 221 s")]
)
def test_watch_that_is_silent_for_long_is_stuck(since: float, says: str) -> None:
    assert stuck_watch({"Jobs": 1000.0, "pods": 1000.0 - since}, 1000.0) == says


def test_right_to_write_ends_before_the_lease_does() -> None:
    now = 0.0
    lease = Lease(ApiServer([(200, {})]).connection(), "n", "l", "me", clock=lambda: now)
    assert not lease.held()
    lease.write({"metadata": {}})
    now = RENEW_S - 0.1
    assert lease.held()
    now = RENEW_S + 0.1
    assert not lease.held()
    assert RENEW_S < LEASE_S


def test_standby_says_for_whom_it_stands_by_once_for_each(caplog: pytest.LogCaptureFixture) -> None:
    holders = ["other", "other", None, "me", "third"]
    server = ApiServer([(200, {"spec": {"holderIdentity": holder}}) for holder in holders])
    lease, found = Lease(server.connection(), "n", "l", "me", clock=lambda: 0.0), []
    with caplog.at_level("INFO"):
        for _ in holders:
            lease.read()
            found.append(lease.holder)
    assert found == ["other", "other", "", "me", "third"]
    assert [record.message for record in caplog.records] == [
        "this replica stands by: other acts",
        "this replica stands by: third acts",
    ]
