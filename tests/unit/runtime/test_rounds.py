"""The protocol of rounds, explored: launchers that read late, act late, hang and die, ranks that fail, a store that
stalls."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diht_k8s.runtime.in_place.rounds import MAX_STALLED, Register, RoundFailure, next_register
from tests.unit.runtime.gang_of_launchers import Gang

NODES = st.integers(1, 4)
CODES = st.sampled_from([1, -9, 75, 64, 65, 143])
EVENT = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("act"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("both"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("all"), st.just(0), st.integers(1, 6)),
    st.tuples(st.just("fail"), st.integers(0, 3), CODES),
    st.tuples(st.just("die"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("stick"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([1, 4, 11, 31])),
    st.tuples(st.just("stall"), st.just(0), st.integers(0, 1)),
)


def play(gang: Gang, event: tuple[str, int, int]) -> None:
    kind, node, number = event
    node %= len(gang.launchers)
    if kind in ("read", "both"):
        gang.read(node)
    if kind in ("act", "both"):
        gang.act(node)
    if kind == "all":
        for each in [*range(len(gang.launchers))] * number:
            gang.read(each)
            gang.act(each)
            gang.check()
    elif kind == "fail":
        gang.fail(node, number)
    elif kind == "die":
        gang.die(node, zombies=bool(number))
    elif kind == "stick":
        gang.launchers[node].stuck = bool(number)
    elif kind == "wait":
        gang.now += number
    elif kind == "stall":
        gang.store.answers = not number


@settings(max_examples=400)
@given(NODES, st.lists(EVENT, max_size=60))
@example(2, [("both", 1, 0), ("die", 1, 0), ("stick", 0, 1)])
def test_gang_whatever_fails_then_one_round_at_a_time_and_an_end(
    nodes: int, events: list[tuple[str, int, int]]
) -> None:
    gang = Gang(nodes)
    for event in events:
        play(gang, event)
        gang.check()
    for launcher in gang.launchers:
        launcher.stuck = launcher.stuck and launcher.alive and bool(launcher.ranks)  # later ranks can be ended
    stuck = [launcher for launcher in gang.launchers if launcher.stuck and launcher.ranks]
    for launcher in stuck:
        launcher.alive, launcher.ranks = False, launcher.ranks  # it never acknowledges: as good as dead
    gang.settle()
    ends = [launcher.end.code for launcher in gang.launchers if launcher.end is not None]
    assert 0 not in ends or set(ends) <= {0, 75}, "an end is the same for all who see it"


def started(nodes: int) -> Gang:
    gang = Gang(nodes)
    play(gang, ("all", 0, 4))
    assert gang.met == 1
    return gang


@pytest.mark.parametrize("code", [1, -9, 75])
def test_gang_when_a_rank_fails_then_the_next_round_begins_and_ends_well(code: int) -> None:
    gang = started(3)
    gang.fail(1, code)
    gang.settle()
    assert gang.store.register.round == gang.met == 2
    assert [launcher.end.code for launcher in gang.launchers if launcher.end] == [0, 0, 0]


@pytest.mark.parametrize("code", [2, 64, 65, 126, 127, 143])
def test_gang_when_the_same_would_happen_again_or_a_stop_was_asked_for_then_it_ends_with_that_code(code: int) -> None:
    gang = started(2)
    gang.fail(1, code)
    gang.settle()
    assert (gang.store.register.round, gang.met) == (1, 1)
    assert [launcher.end.code for launcher in gang.launchers if launcher.end] == [code, code]


def test_gang_when_two_nodes_fail_at_once_then_one_of_them_counts() -> None:
    gang = started(3)
    gang.fail(1, 1)
    gang.fail(2, 75)
    gang.settle()
    assert gang.store.register.round == 2
    assert gang.store.register.newest == RoundFailure(code=1, message="failed", node=1, step=5)


def test_gang_when_launcher_0_dies_then_the_others_end_to_be_created_again() -> None:
    gang = started(3)
    gang.die(0, zombies=False)
    gang.settle()
    assert [launcher.end.code for launcher in gang.launchers if launcher.end] == [75, 75]


# Steps at which rounds fail and what is committed then, and in which round it ends.
LOOPS = {
    "before the first step": ([(None, 0)] * 9, MAX_STALLED + 1),
    "at the same step": ([(7, 5)] * 9, MAX_STALLED + 1),
    "a step further each time, committing nothing": ([(step, 0) for step in range(1, 10)], MAX_STALLED + 1),
    "with progress": ([(step + 7, step) for step in range(0, 90, 10)], 10),
    "with progress after some": ([(7, 5), (7, 5), (17, 10), (17, 10), (17, 10), (17, 10), (17, 10)], 6),
}


@pytest.mark.parametrize(("failures", "rounds"), LOOPS.values(), ids=LOOPS)
def test_crash_loop_ends_unless_the_step_that_failed_is_committed(
    failures: list[tuple[int | None, int]], rounds: int
) -> None:
    register = Register()
    for step, committed in failures:
        register = next_register(
            register, RoundFailure(code=-9, message="killed", node=0, step=step, committed=committed)
        )
    assert register.round == rounds
    assert (register.end is None) == (rounds == 10)
    if register.end is not None:
        assert register.end.code == 75
        assert "in a row" in register.end.message


@pytest.mark.parametrize("failure", [{"code": -9, "final": True}, {"code": 64}], ids=["of the node", "of the user"])
def test_failure_that_would_come_again_ends_the_gang(failure: dict[str, int]) -> None:
    register = next_register(Register(), RoundFailure(message="x", node=1, **failure))
    assert (register.round, register.end) == (1, RoundFailure(message="x", node=1, **failure))
    assert next_register(register, RoundFailure(code=1, message="later", node=0)) == register
