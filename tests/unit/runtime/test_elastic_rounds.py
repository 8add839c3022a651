"""The protocol of rounds where nodes go and come: explored with pods that are lost, drained and replaced, and an
operator that decides late."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diht_k8s.runtime.in_place.rounds import LauncherState, Register, RoundFailure, next_register, resized
from tests.unit.runtime.gang_of_launchers import Gang, Launcher

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
            elif not whole and self.now - each.local.since > 5:
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


def play(gang: Elastic, event: tuple[str, int, int]) -> None:
    kind, node, number = event
    node %= len(gang.launchers)
    if kind == "read":
        gang.read(node)
    elif kind == "act":
        gang.act(node)
    elif kind == "pass":
        for _ in range(number):
            gang.now += 1.0
            for each in range(len(gang.launchers)):
                gang.read(each)
                gang.act(each)
                gang.check()
            gang.operate()
            gang.work()
    elif kind == "fail":
        gang.fail(node, number)
    elif kind == "die" and node:
        gang.die(node, zombies=bool(number))
    elif kind == "drain" and node:
        gang.drain(node)
    elif kind == "replace":
        gang.replace(node)


EVENT = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("act"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("pass"), st.just(0), st.sampled_from([1, 2, 5, 30, 90])),
    st.tuples(st.just("fail"), st.integers(0, 3), st.sampled_from([1, -9, 75])),
    st.tuples(st.just("die"), st.integers(1, 3), st.integers(0, 1)),
    st.tuples(st.just("drain"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("replace"), st.integers(1, 3), st.just(0)),
)


@settings(max_examples=120)
@given(st.integers(2, 4), st.lists(EVENT, max_size=50))
def test_elastic_gang_whatever_goes_and_comes_then_it_ends_well_on_all_nodes_or_fails(
    nodes: int, events: list[tuple[str, int, int]]
) -> None:
    gang = Elastic(nodes)
    for event in events:
        play(gang, event)
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


def started(nodes: int) -> Elastic:
    gang = Elastic(nodes)
    play(gang, ("pass", 0, 5))
    assert gang.rounds == [(1,)]
    return gang


def test_gang_that_loses_a_node_waits_for_the_decision_and_goes_on_with_fewer_and_then_with_all() -> None:
    gang = started(3)
    gang.die(1, zombies=False)
    play(gang, ("pass", 0, 50))
    assert gang.rounds == [(1,)]
    assert gang.store.register.end is None, "no launcher ends while the operator has not decided"
    play(gang, ("pass", 0, 20))
    assert gang.rounds == [(1,), (3, 1)]
    gang.replace(1)
    play(gang, ("pass", 0, 20))
    assert gang.rounds == [(1,), (3, 1), (4,)]
    assert (gang.store.register.uncounted, gang.store.register.orderly) == (3, True)


def test_gang_whose_lost_pod_is_replaced_in_time_goes_on_with_all() -> None:
    gang = started(3)
    gang.die(2, zombies=False)
    play(gang, ("pass", 0, 20))
    gang.replace(2)
    play(gang, ("pass", 0, 10))
    assert gang.rounds[-1] == (3,)
    assert gang.store.register.uncounted == 2


def test_gang_of_which_a_node_is_drained_saves_and_waits_for_the_decision() -> None:
    gang = started(3)
    gang.drain(1)
    play(gang, ("pass", 0, 10))
    assert gang.launchers[1].end is not None
    assert gang.launchers[1].end.code == 143
    assert (gang.store.register.round, gang.store.register.orderly, gang.store.register.end) == (2, True, None)
    play(gang, ("pass", 0, 70))
    assert gang.rounds == [(1,), (3, 1)]


def test_gang_of_which_node_0_is_drained_ends() -> None:
    gang = started(3)
    gang.drain(0)
    play(gang, ("pass", 0, 10))
    assert gang.store.register.end is not None
    assert {each.end.code for each in gang.launchers if each.end} == {143}


def test_launcher_whose_place_a_newer_pod_has_taken_ends_its_ranks_and_leaves() -> None:
    gang = started(3)
    zombie = gang.launchers[1]
    gang.launchers[1] = Launcher(LauncherState(1), name=1, contact_at=gang.now)
    gang.read(1)
    gang.launchers[1], newer = zombie, gang.launchers[1]
    for _ in range(3):
        gang.read(1)
        gang.act(1)
    assert (zombie.ranks, zombie.end and zombie.end.code) == (0, 75)
    gang.launchers[1] = newer
    play(gang, ("pass", 0, 10))
    assert gang.rounds[-1] == (2,)


def test_node_that_comes_back_is_taken_in_once_its_launcher_waits() -> None:
    gang = started(3)
    gang.die(1, zombies=False)
    play(gang, ("pass", 0, 90))
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
