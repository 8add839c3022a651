"""Waiting for the names of a gang's pods, with a clock of the test's."""

from __future__ import annotations

import pytest

from diht_k8s.api.errors import RetryableError, StopRequested
from diht_k8s.runtime.preflight import Gang, peer_hosts, resolves, wait_for_hosts
from diht_k8s.runtime.signals import StopFlag

HOSTS = ["job-0.svc", "job-1.svc", "job-2.svc"]


class Dns:
    """Hosts become known at their time; sleeping lets time pass."""

    def __init__(self, **appears_s: float) -> None:
        self.now, self.appears = 0.0, appears_s

    def known(self, host: str) -> bool:
        return self.now >= self.appears.get(host.partition(".")[0].replace("-", "_"), 0)

    def wait(self, stop: StopFlag | None = None) -> None:
        wait_for_hosts(HOSTS, stop=stop or StopFlag(), known=self.known, clock=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("appears", "waited_s"), [({}, 0), ({"job_1": 3.2, "job_2": 7.0}, 7.0), ({"job_0": 59.9}, 60)])
def test_gang_starts_as_soon_as_the_last_name_is_known(appears: dict[str, float], waited_s: float) -> None:
    dns = Dns(**appears)
    dns.wait()
    assert dns.now == waited_s


@pytest.mark.parametrize(
    ("appears", "words"),
    [
        ({"job_1": 100}, "no address for pod job-1 after 60 s (job-1.svc)"),
        ({"job_1": 100, "job_2": 100}, "no address for pod job-1 and 1 more after 60 s (job-1.svc)"),
    ],
)
def test_pod_without_a_name_after_a_minute_is_retryable_and_named(appears: dict[str, float], words: str) -> None:
    dns = Dns(**appears)
    with pytest.raises(RetryableError) as raised:
        dns.wait()
    assert dns.now == 60
    assert words in str(raised.value)
    assert raised.value.exit_code == 75


def test_stop_ends_the_waiting() -> None:
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StopRequested):
        Dns(job_0=100).wait(stop)


@pytest.mark.parametrize(
    ("pattern", "nodes", "hosts"),
    [("job-*.svc", 2, ["job-0.svc", "job-1.svc"]), ("", 2, []), ("job-*.svc", 1, ["job-0.svc"])],
)
def test_hosts_come_from_the_pattern_that_the_scheduler_gives(
    pattern: str, nodes: int, hosts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert peer_hosts(pattern, nodes) == hosts
    monkeypatch.setenv("DIHT_PEER_HOSTS", pattern)
    monkeypatch.setenv("DIHT_NUM_NODES", str(nodes))
    assert Gang.from_environment(1).hosts == tuple(hosts)


@pytest.mark.parametrize(("host", "known"), [("localhost", True), ("no-such-host.invalid", False)])
def test_name_is_looked_up_in_dns(host: str, known: bool) -> None:
    assert resolves(host) == known
