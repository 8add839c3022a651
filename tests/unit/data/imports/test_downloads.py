"""Patience with hosts: when the next request may go, by faults before it."""

from __future__ import annotations

import pytest

from diht_k8s.data.imports.downloads import FIRST_DELAY, GIVE_UP, MAX_DELAY, HostPatience
from diht_k8s.data.shards.images import BadImageError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> HostPatience:
    return HostPatience(lambda: clock.now, clock.sleep)


def test_each_fault_of_a_host_doubles_the_wait_up_to_a_limit(clock: Clock, patience: HostPatience) -> None:
    for _ in range(GIVE_UP):
        patience.note("a", patience.wait("a"), fault=True)
    assert clock.slept == [min(FIRST_DELAY * 2**fault, MAX_DELAY) for fault in range(GIVE_UP - 1)]
    with pytest.raises(BadImageError, match="host_given_up"):
        patience.wait("a")
    assert patience.wait("b") == clock.now


def test_a_success_ends_the_wait(clock: Clock, patience: HostPatience) -> None:
    for fault in (True, True, False):
        patience.note("a", patience.wait("a"), fault=fault)
    slept = len(clock.slept)
    patience.wait("a")
    assert len(clock.slept) == slept


def test_requests_that_were_on_their_way_together_are_one_fault(clock: Clock, patience: HostPatience) -> None:
    asked = [patience.wait("a") for _ in range(2 * GIVE_UP)]
    clock.now = 1.0
    for each in asked:
        patience.note("a", each, fault=True)
    patience.wait("a")
    assert clock.slept == [FIRST_DELAY]


def test_those_that_wait_for_a_host_go_one_after_another(clock: Clock, patience: HostPatience) -> None:
    patience.note("a", patience.wait("a"), fault=True)
    clock.sleep = clock.slept.append  # type: ignore[method-assign,assignment]
    patience._sleep = clock.sleep
    for _ in range(3):
        patience.wait("a")
    assert clock.slept == [FIRST_DELAY * turn for turn in (1, 2, 3)]


@pytest.mark.parametrize(("wanted", "slept"), [(7.0, 7.0), (10 * MAX_DELAY, MAX_DELAY), (0.0, FIRST_DELAY)])
def test_a_host_is_left_alone_as_long_as_it_wants_up_to_a_limit(
    wanted: float, slept: float, clock: Clock, patience: HostPatience
) -> None:
    patience.note("a", patience.wait("a"), fault=True, retry_after=wanted)
    patience.wait("a")
    assert clock.slept == [slept]
