"""Launchers around a control store, moved one step at a time: they read late, act late, hang and die."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from diht_k8s.runtime.in_place.rounds import (
    ACKNOWLEDGE_S,
    DONE_S,
    FIRST_ROUND_S,
    UNREACHABLE_S,
    LauncherAction,
    LauncherState,
    LauncherStep,
    Register,
    RoundFailure,
    StoreView,
    decide,
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
    launchers: dict[int, int] = field(default_factory=dict)
    """the newest launcher of each node."""
    waits: set[tuple[int, int]] = field(default_factory=set)
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
        view = StoreView(
            store.register,
            all((round_, each) in store.acknowledged for each in nodes),
            "place" if round_ in store.places else None,
            all((round_, each) in store.done for each in nodes),
            store.seen.issuperset(nodes[1:]),
            self.elastic and store.launchers[node] != launcher.name,
            frozenset(each for each in without if (round_, each) in store.waits),
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
        elif do is LauncherAction.WAIT_OUTSIDE:
            store.waits.add((round_, local.node))
            launcher.local = replace(local, waits=round_)
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
