"""Launchers around a control store, moved one step at a time: they read late, act late, hang and die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diht_k8s.runtime.in_place.rounds import (
    ACKNOWLEDGE_S,
    DONE_S,
    FIRST_ROUND_S,
    MAX_STALLED,
    TOLD,
    UNREACHABLE_S,
    LauncherAction,
    LauncherState,
    LauncherStep,
    Register,
    RoundFailure,
    StoreView,
    decide,
    next_register,
    noted,
    resized,
)

LONGEST_S = FIRST_ROUND_S + DONE_S + 10 * (ACKNOWLEDGE_S + UNREACHABLE_S)


@dataclass
class Store:
    """The control store, as launcher 0 hosts it."""

    register: Register = field(default_factory=Register)
    told: set[tuple[LauncherAction, int, int]] = field(default_factory=set)
    places: set[int] = field(default_factory=set)
    launchers: dict[int, int] = field(default_factory=dict)
    """the newest launcher of each node."""
    answers: bool = True


@dataclass
class Launcher:
    local: LauncherState
    name: int = 0
    """unlike that of any other launcher of its node."""
    view: StoreView | None = None
    contact_at: float = 0.0
    alive: bool = True
    stuck: bool = False
    """whether its ranks cannot be reaped."""
    ranks: int = 0
    """round of its ranks that live, also when it is dead itself; 0: none."""
    started: float = 0.0
    """when they started."""
    end: RoundFailure | None = None


class Gang:
    """Launchers around a store, moved one step at a time."""

    def __init__(self, nodes: int, *, elastic: bool = False) -> None:
        self.store, self.now, self.elastic = Store(Register(elastic=elastic)), 0.0, elastic
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
        round_, without = store.register.round, store.register.without
        if launcher.view is None and self.elastic:
            store.launchers[node] = launcher.name
        nodes = [each for each in range(len(self.launchers)) if each not in without]

        def have_told(action: LauncherAction, those: Sequence[int]) -> list[int]:
            return [each for each in those if (action, round_, each) in store.told]

        view = StoreView(
            store.register,
            have_told(LauncherAction.ACKNOWLEDGE, nodes) == nodes,
            "place" if round_ in store.places else None,
            have_told(LauncherAction.REPORT, nodes) == nodes,
            have_told(LauncherAction.SHUTDOWN, nodes[1:]) == nodes[1:],
            self.elastic and store.launchers[node] != launcher.name,
            frozenset(have_told(LauncherAction.WAIT_OUTSIDE, without)),
        )
        if launcher.view is None or launcher.view.register != view.register:
            arrived = launcher.local.arrived or round_
            launcher.local = replace(launcher.local, since=self.now, arrived=arrived)
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
            assert launcher.view is not None
            saves = step.action is LauncherAction.STOP and launcher.view.register.planned is not None
            if not launcher.stuck and not saves:
                launcher.ranks = 0
                launcher.local = replace(launcher.local, running=0)
        elif step.action is not LauncherAction.WAIT and self.store.answers and self.launchers[0].alive:
            self.write(launcher, step)

    def write(self, launcher: Launcher, step: LauncherStep) -> None:
        store, local, view = self.store, launcher.local, launcher.view
        assert view is not None
        do, round_ = step.action, view.register.round
        if do is LauncherAction.START:
            launcher.ranks, launcher.started = round_, self.now
            launcher.local = replace(local, running=round_)
        elif do is LauncherAction.ANNOUNCE or do in TOLD:
            if do in TOLD:
                store.told.add((do, round_, local.node))
            else:
                store.places.add(round_)
            launcher.local = noted(local, do, round_, self.now)
        elif do is LauncherAction.PROPOSE and store.register == view.register:
            assert step.register is not None
            store.register = step.register

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

    def play(self, kind: str, node: int, number: int) -> None:
        """An event of a story."""
        node %= len(self.launchers)
        if kind in ("read", "both"):
            self.read(node)
        if kind in ("act", "both"):
            self.act(node)
        if kind == "all":
            for each in [*range(len(self.launchers))] * number:
                self.read(each)
                self.act(each)
                self.check()
        elif kind == "fail":
            self.fail(node, number)
        elif kind == "die":
            self.die(node, zombies=bool(number))
        elif kind == "stick":
            self.launchers[node].stuck = bool(number)
        elif kind == "wait":
            self.now += number
        elif kind == "stall":
            self.store.answers = not number

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


@settings(max_examples=400)
@given(NODES, st.lists(EVENT, max_size=60))
@example(2, [("both", 1, 0), ("die", 1, 0), ("stick", 0, 1)])
def test_gang_whatever_fails_then_one_round_at_a_time_and_an_end(
    nodes: int, events: list[tuple[str, int, int]]
) -> None:
    gang = Gang(nodes)
    for event in events:
        gang.play(*event)
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
    gang.play("all", 0, 4)
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


AFTER_S = 60.0


class Elastic(Gang):
    """Launchers around a store, and an operator."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes, elastic=True)
        self.missing_since: dict[int, float] = {}
        self.zombies: list[Launcher] = []
        self.rounds: list[tuple[int, ...]] = []

    @property
    def job_failed(self) -> bool:
        """Whether a pod has ended in a way that fails the Job: any but well, or as one of its disruptions."""
        ends = [(each.end, each.local.asked) for each in self.launchers if each.end is not None]
        return any(end.code not in (0, 143) or (end.code == 143 and not asked) for end, asked in ends)

    def check(self) -> None:
        """Ranks of one round live on the nodes of the gang: what lives on a node that is lost, no launcher can end."""
        living = {each.ranks for each in self.launchers if each.alive and each.ranks}
        assert len(living) <= 1, f"ranks of the rounds {living} live at once"

    def members(self) -> list[Launcher]:
        return [each for each in self.launchers if each.local.node not in self.store.register.without]

    def work(self) -> None:
        """What ranks do in a second: they save and end if any was asked to, end well together, or lose another one."""
        (round_,) = {each.ranks for each in self.launchers if each.alive and each.ranks} or {0}
        running = [each for each in self.launchers if each.alive and each.local.running and each.ranks]
        whole = round_ == self.store.register.round and all(each.ranks == round_ for each in self.members())
        asked = [each for each in running if each.local.asked or (each.view and each.view.register.planned is not None)]
        if whole and round_ and (not self.rounds or self.rounds[-1] != (round_, *self.store.register.without)):
            self.rounds.append((round_, *self.store.register.without))
        for each in running:
            if each.local.failure is not None and each.local.failure[0] == each.local.running:
                continue
            if whole and asked:
                stopped = RoundFailure(code=143, message="stopped", node=each.local.node, asked=each.local.asked)
                each.local = replace(each.local, failure=(each.local.running, stopped))
            elif not whole and self.now - each.started > 5:
                self.fail(each.local.node, 75)

    def finish(self) -> None:
        """The training ends well."""
        (round_,) = {each.ranks for each in self.launchers if each.ranks} or {0}
        if round_ and all(each.ranks == round_ for each in self.members()):
            for each in self.members():
                each.ranks, each.local = 0, replace(each.local, running=0, well=round_)

    def drain(self, node: int) -> None:
        self.launchers[node].local = replace(self.launchers[node].local, asked=True)
        if node == 0 and not self.launchers[0].local.running and self.launchers[0].view is not None:
            stopped = RoundFailure(code=143, message="stopped", node=0, asked=True)
            self.launchers[0].local = replace(self.launchers[0].local, failure=(self.store.register.round, stopped))

    def replace(self, node: int) -> None:
        """The Job controller makes a new pod for one that has ended or is lost; a lost one may live on, unseen."""
        old = self.launchers[node]
        if node and (not old.alive or old.end is not None):
            self.launchers[node] = Launcher(LauncherState(node), name=old.name + 1, contact_at=self.now)

    def operate(self, least: int = 1) -> None:
        """The operator decides as `pipeline.elasticity` does, as far as rounds are concerned."""
        there = [each.local.node for each in self.launchers if each.alive and each.end is None]
        for node in range(len(self.launchers)):
            if node in there:
                self.missing_since.pop(node, None)
            else:
                self.missing_since.setdefault(node, self.now)
        due = all(self.now - since >= AFTER_S for since in self.missing_since.values())
        if due and len(there) >= least and 0 in there:
            without = tuple(sorted(self.missing_since))
            self.launchers[0].local = replace(self.launchers[0].local, wanted=without)

    def play(self, kind: str, node: int, number: int) -> None:
        node %= len(self.launchers)
        if kind == "pass":
            for _ in range(number):
                self.now += 1.0
                super().play("all", 0, 1)
                self.operate()
                self.work()
        elif kind == "drain" and node:
            self.drain(node)
        elif kind == "replace":
            self.replace(node)
        elif node or kind not in ("drain", "die"):
            super().play(kind, node, number)

    def settle(self) -> None:
        """No more faults: pods are replaced, all nodes come back, and after a while the training ends."""
        for second in range(3000):
            self.now += 1.0
            for node in range(len(self.launchers)):
                if second % 7 == 0 and second > 200:
                    self.replace(node)
                self.read(node)
                self.act(node)
                self.check()
            self.operate()
            self.work()
            if second > 300 and not self.store.register.without:
                self.finish()
            if self.job_failed or (self.store.register.end is not None and self.launchers[0].end is not None):
                return
            if not self.launchers[0].alive:
                return  # the operator creates the gang again
        raise AssertionError(f"hangs: {self.launchers} {self.store}")


CHANGE = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("act"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("pass"), st.just(0), st.sampled_from([1, 2, 5, 30, 90])),
    st.tuples(st.just("fail"), st.integers(0, 3), st.sampled_from([1, -9, 75])),
    st.tuples(st.just("die"), st.integers(1, 3), st.integers(0, 1)),
    st.tuples(st.just("drain"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("replace"), st.integers(1, 3), st.just(0)),
)


@settings(max_examples=120)
@given(st.integers(2, 4), st.lists(CHANGE, max_size=50))
@example(3, [("die", 1, 0), ("pass", 0, 5), ("replace", 1, 0)])
def test_elastic_gang_whatever_goes_and_comes_then_it_ends_well_on_all_nodes_or_fails(
    nodes: int, events: list[tuple[str, int, int]]
) -> None:
    gang = Elastic(nodes)
    for event in events:
        gang.play(*event)
        gang.check()
    gang.settle()
    end = gang.store.register.end
    injected = sum(kind == "fail" for kind, _, _ in events)
    if not injected and end is not None:
        assert (end.code, gang.store.register.without) == (0, ()), (
            "without a fault of a program it ends well, on all nodes"
        )
    if not injected:
        assert gang.store.register.round - 1 == gang.store.register.uncounted, (
            "what nodes do counts as nobody's failure"
        )


def begun(nodes: int) -> Elastic:
    gang = Elastic(nodes)
    gang.play("pass", 0, 5)
    assert gang.rounds == [(1,)]
    return gang


def test_gang_that_loses_a_node_waits_for_the_decision_and_goes_on_with_fewer_and_then_with_all() -> None:
    gang = begun(3)
    gang.die(1, zombies=False)
    gang.play("pass", 0, 50)
    assert gang.rounds == [(1,)]
    assert gang.store.register.end is None, "no launcher ends while the operator has not decided"
    gang.play("pass", 0, 20)
    assert gang.rounds == [(1,), (3, 1)]
    gang.replace(1)
    gang.play("pass", 0, 20)
    assert gang.rounds == [(1,), (3, 1), (4,)]
    assert (gang.store.register.uncounted, gang.store.register.orderly) == (3, True)


def test_gang_whose_lost_pod_is_replaced_in_time_goes_on_with_all() -> None:
    gang = begun(3)
    gang.die(2, zombies=False)
    gang.play("pass", 0, 20)
    gang.replace(2)
    gang.play("pass", 0, 10)
    assert gang.rounds[-1] == (3,)
    assert gang.store.register.uncounted == 2


def test_gang_of_which_a_node_is_drained_saves_and_waits_for_the_decision() -> None:
    gang = begun(3)
    gang.drain(1)
    gang.play("pass", 0, 10)
    assert gang.launchers[1].end is not None
    assert gang.launchers[1].end.code == 143
    assert (gang.store.register.round, gang.store.register.orderly, gang.store.register.end) == (2, True, None)
    gang.play("pass", 0, 70)
    assert gang.rounds == [(1,), (3, 1)]


def test_gang_of_which_node_0_is_drained_ends() -> None:
    gang = begun(3)
    gang.drain(0)
    gang.play("pass", 0, 10)
    assert gang.store.register.end is not None
    assert {each.end.code for each in gang.launchers if each.end} == {143}


def test_launcher_whose_place_a_newer_pod_has_taken_ends_its_ranks_and_leaves() -> None:
    gang = begun(3)
    zombie = gang.launchers[1]
    gang.launchers[1] = Launcher(LauncherState(1), name=1, contact_at=gang.now)
    gang.read(1)
    gang.launchers[1], newer = zombie, gang.launchers[1]
    for _ in range(3):
        gang.read(1)
        gang.act(1)
    assert (zombie.ranks, zombie.end and zombie.end.code) == (0, 75)
    gang.launchers[1] = newer
    gang.play("pass", 0, 10)
    assert gang.rounds[-1] == (2,)


def test_node_that_comes_back_is_taken_in_once_its_launcher_waits() -> None:
    gang = begun(3)
    gang.die(1, zombies=False)
    gang.play("pass", 0, 90)
    gang.launchers[0].local = replace(gang.launchers[0].local, wanted=())
    for _ in range(3):
        gang.read(0)
        gang.act(0)
    assert gang.store.register.planned is None, "the running round is not disturbed before"


PLANNED = Register(round=4, elastic=True, planned=(2,))


@pytest.mark.parametrize(
    ("code", "asked", "register", "round_", "without", "ends"),
    [
        (143, True, Register(elastic=True), 2, (), False),
        (143, True, Register(), 1, (), True),
        (143, False, PLANNED, 5, (2,), False),
        (75, False, PLANNED, 5, (2,), False),
        (64, False, PLANNED, 4, (), True),
    ],
    ids=["a node leaves", "rigid", "all save for a resize", "a node is lost before that", "an error of the user"],
)
def test_round_after_ranks_that_end(
    code: int, asked: bool, register: Register, round_: int, without: tuple[int, ...], ends: bool
) -> None:
    found = next_register(register, RoundFailure(code=code, message="m", node=1, asked=asked))
    assert (found.round, found.without, found.end is not None, found.planned) == (
        round_,
        without,
        ends,
        None if not ends else register.planned,
    )
    assert found.stalled == 0 or ends


def test_loss_of_a_node_counts_as_no_failure_and_an_earlier_failure_still_does() -> None:
    failed = next_register(Register(elastic=True), RoundFailure(code=1, message="m", node=1, step=5))
    lost = next_register(failed, RoundFailure(code=75, message="lost", node=0, step=6, committed=5))
    assert (lost.round, lost.uncounted) == (3, 0)
    smaller = resized(lost, (2,), begun=False)
    assert (smaller.round, smaller.uncounted, smaller.without) == (4, 2, (2,))
    assert smaller.round - 1 - smaller.uncounted == 1


def test_decision_that_is_taken_back_before_the_ranks_have_saved_changes_nothing_more() -> None:
    planned = resized(Register(elastic=True), (2,), begun=True)
    assert planned.planned == (2,)
    assert resized(planned, (), begun=True) == Register(elastic=True)
