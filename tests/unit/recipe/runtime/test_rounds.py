"""The protocol of rounds, explored: launchers that read late, act late, hang and die, ranks that fail, a store that stalls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diht_k8s.recipe.runtime.in_place.rounds import (
    ACKNOWLEDGE_S,
    DONE_S,
    FIRST_ROUND_S,
    MAX_STALLED,
    UNREACHABLE_S,
    LauncherAction,
    LauncherState,
    Register,
    RoundFailure,
    StoreView,
    decide,
    next_register,
)

LONGEST_S = FIRST_ROUND_S + DONE_S + 10 * (ACKNOWLEDGE_S + UNREACHABLE_S)


@dataclass
class Store:
    """The control store, as launcher 0 hosts it."""

    register: Register = field(default_factory=Register)
    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    places: set[int] = field(default_factory=set)
    done: set[tuple[int, int]] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    answers: bool = True


@dataclass
class Launcher:
    local: LauncherState
    view: StoreView | None = None
    contact_at: float = 0.0
    alive: bool = True
    stuck: bool = False
    """whether its ranks cannot be reaped."""
    ranks: int = 0
    """round of its ranks that live, also when it is dead itself; 0: none."""
    end: RoundFailure | None = None


class Gang:
    """Launchers around a store, moved one step at a time."""

    def __init__(self, nodes: int) -> None:
        self.store, self.now = Store(), 0.0
        self.launchers = [Launcher(LauncherState(node)) for node in range(nodes)]
        self.met = 0

    def check(self) -> None:
        """While ranks of an older round live anywhere, no newer round has begun."""
        living = {launcher.ranks for launcher in self.launchers if launcher.ranks}
        assert len(living) <= 1, f"ranks of the rounds {living} live at once"
        if living and all(launcher.ranks for launcher in self.launchers):
            (met,) = living
            assert met >= self.met
            self.met = met

    def read(self, node: int) -> None:
        launcher, store = self.launchers[node], self.store
        if not (launcher.alive and store.answers and self.launchers[0].alive):
            return
        nodes, round_ = range(len(self.launchers)), store.register.round
        view = StoreView(
            store.register,
            all((round_, each) in store.acknowledged for each in nodes),
            "place" if round_ in store.places else None,
            all((round_, each) in store.done for each in nodes),
            store.seen.issuperset(nodes[1:]),
        )
        if launcher.view is None or launcher.view.register != view.register:
            launcher.local = replace(launcher.local, since=self.now)
        launcher.view, launcher.contact_at = view, self.now

    def act(self, node: int) -> None:
        launcher = self.launchers[node]
        if not launcher.alive or launcher.end is not None:
            return
        step = decide(launcher.view, launcher.local, self.now, contact_at=launcher.contact_at)
        if step.action is LauncherAction.EXIT:
            assert launcher.ranks == 0 or launcher.stuck
            assert step.failure is not None
            launcher.end = step.failure
            launcher.alive = node != 0 and launcher.alive
        elif step.action in (LauncherAction.KILL, LauncherAction.STOP):
            if not launcher.stuck:
                launcher.ranks = 0
                launcher.local = replace(launcher.local, running=0)
        elif step.action is not LauncherAction.WAIT and self.store.answers and self.launchers[0].alive:
            self.write(launcher, step.action, step.failure)

    def write(self, launcher: Launcher, do: LauncherAction, failure: RoundFailure | None) -> None:
        store, local, view = self.store, launcher.local, launcher.view
        assert view is not None
        round_ = view.register.round
        if do is LauncherAction.ACKNOWLEDGE:
            store.acknowledged.add((round_, local.node))
            launcher.local = replace(local, acknowledged=round_)
        elif do is LauncherAction.ANNOUNCE:
            store.places.add(round_)
            launcher.local = replace(local, announced=round_)
        elif do is LauncherAction.START:
            launcher.ranks = round_
            launcher.local = replace(local, running=round_)
        elif do is LauncherAction.REPORT:
            store.done.add((round_, local.node))
            launcher.local = replace(local, reported=round_, since=self.now)
        elif do is LauncherAction.SHUTDOWN:
            store.seen.add(local.node)
            launcher.local = replace(local, seen=True)
        elif do is LauncherAction.PROPOSE and store.register == view.register:
            assert failure is not None
            store.register = next_register(store.register, failure)

    def fail(self, node: int, code: int) -> None:
        """A rank of a node fails; nothing happens where none runs."""
        launcher = self.launchers[node]
        if launcher.alive and launcher.ranks and launcher.local.running:
            failure = RoundFailure(code=code, message="failed", node=node, step=5)
            launcher.local = replace(launcher.local, failure=(launcher.local.running, failure))

    def die(self, node: int, *, zombies: bool) -> None:
        launcher = self.launchers[node]
        launcher.alive = False
        launcher.ranks = launcher.ranks if zombies else 0

    def work(self) -> None:
        """What ranks do in a second: they end well together, or fail because another one is lost."""
        running = [launcher for launcher in self.launchers if launcher.alive and launcher.local.running]
        whole = all(launcher.ranks == self.met > 0 for launcher in self.launchers)
        for launcher in running:
            if launcher.local.failure is not None and launcher.local.failure[0] == launcher.local.running:
                continue
            if whole:
                launcher.ranks = 0
                launcher.local = replace(launcher.local, running=0, well=self.met)
            elif self.met == launcher.local.running or self.now - launcher.local.since > 60:
                self.fail(launcher.local.node, 75)

    def settle(self) -> None:
        """No more faults: all that live go on until they end."""
        began = self.now
        while self.now < began + LONGEST_S:
            self.now += 1.0
            for node in range(len(self.launchers)):
                self.read(node)
                self.act(node)
                self.check()
            self.work()
            if all(launcher.end is not None or not launcher.alive for launcher in self.launchers):
                return
        raise AssertionError(f"hangs: {self.launchers} {self.store}")


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
