"""A replica's part in the election: what it reads and writes, and the end, at which it takes its own name off, nobody
else's.
"""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.leaderelection import LeaderElection

from diht_k8s.controller.lease import CALL_S, LEASE_S, RENEW_S, RETRY_S, Lease, _Lock
from diht_k8s.controller.operator import STALE_S, stuck_watch
from diht_k8s.kube.errors import ClusterError
from tests.unit.kube.api_server import ApiServer, refusal

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
TIMES = {"acquireTime": "2026-11-29T20:00:00.000000Z", "renewTime": "2026-11-29T20:00:01.500000Z"}


def document(holder: str | None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "diht-operator", "namespace": "ns", "resourceVersion": "7"}
    return {"kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": holder, "leaseTransitions": 3, **spec}}


def lease_of(server: ApiServer, now: float = 0.0) -> Lease:
    return Lease(server.connection(), "ns", "diht-operator", "me", clock=lambda: now)


def election(lease: Lease) -> LeaderElection:
    return LeaderElection(
        Config(_Lock(lease), LEASE_S, RENEW_S, RETRY_S, onstarted_leading=print, onstopped_leading=print)
    )


def test_first_replica_creates_the_lease_and_holds_it() -> None:
    server = ApiServer([(404, refusal("not found")), (201, {})])
    lease = lease_of(server)
    assert election(lease).try_acquire_or_renew()
    read, created = server.asked
    assert (read.method, read.path, read.limits_s) == ("GET", f"{PATH}/diht-operator", CALL_S)
    assert (created.method, created.path, created.body["metadata"]) == ("POST", PATH, {"name": "diht-operator"})
    spec = created.body["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("me", LEASE_S)
    assert spec["renewTime"].endswith("+00:00")
    assert lease.held()


@pytest.mark.parametrize("holder", ["me", None, ""], ids=["own", "released", "empty"])
def test_lease_of_nobody_else_is_replaced_in_the_version_that_was_read(holder: str | None) -> None:
    server = ApiServer([(200, document(holder, leaseDurationSeconds=15, **TIMES)), (200, {})])
    lease = lease_of(server)
    assert election(lease).try_acquire_or_renew()
    written = server.asked[1]
    assert (written.method, written.path) == ("PUT", f"{PATH}/diht-operator")
    assert (written.body["metadata"]["resourceVersion"], written.body["spec"]["leaseTransitions"]) == ("7", 3)
    kept = written.body["spec"]["acquireTime"] == "2026-11-29T20:00:00.000000+00:00"
    assert kept == (holder == "me"), "the time since which it leads"
    assert lease.held()


def test_lease_of_another_replica_is_left_alone_until_it_expires() -> None:
    server = ApiServer([(200, document("other", leaseDurationSeconds=15, **TIMES))] * 3)
    found = election(lease := lease_of(server))
    assert not found.try_acquire_or_renew()
    assert not found.try_acquire_or_renew()
    assert (lease.held(), lease.holder, {asked.method for asked in server.asked}) == (False, "other", {"GET"})
    found.observed_time_milliseconds -= 1000 * LEASE_S + 1
    server.answers.append((200, {}))
    assert found.try_acquire_or_renew()
    assert lease.held()


@pytest.mark.parametrize(
    "answers",
    [
        [(503, refusal("busy"))],
        [(403, refusal("no right"))],
        [TimeoutError("no answer")],
        [(200, b"<html>log in</html>")],
        [(200, document("me", leaseDurationSeconds=15, **TIMES)), (409, refusal("changed"))],
        [(404, refusal("not found")), (409, refusal("exists"))],
    ],
    ids=["busy", "no right", "no answer", "proxy", "another was faster", "another made it"],
)
def test_replica_whose_call_fails_holds_nothing(answers: list[Any]) -> None:
    lease = lease_of(ApiServer(answers))
    assert not election(lease).try_acquire_or_renew()
    assert not lease.held()


@pytest.mark.parametrize(("holder", "wrote"), [("me", [None]), ("another", []), ("", [])])
def test_release_takes_its_own_name_off_and_no_other(holder: str, wrote: list[str | None]) -> None:
    server = ApiServer([(200, document(holder)), (200, {})])
    lease = lease_of(server)
    lease.close()
    lease.release()
    assert [asked.body["spec"]["holderIdentity"] for asked in server.asked[1:]] == wrote


def test_closed_lease_is_not_held_whatever_was_renewed_and_is_not_renewed_again() -> None:
    server = ApiServer([(200, {})])
    lease = lease_of(server)
    lease.write(document("me"))
    assert lease.held()
    lease.close()
    assert not lease.held()
    with pytest.raises(ClusterError, match="no part"):
        lease.write(document("me"))
    with pytest.raises(ClusterError, match="no part"):
        lease.read()
    assert len(server.asked) == 1


def test_release_without_the_right_to_is_no_error() -> None:
    server = ApiServer([(403, refusal("Forbidden"))])
    lease = lease_of(server)
    lease.close()
    lease.release()
    assert len(server.asked) == 1


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
