"""Elastic gangs in their living pods: with which nodes a training goes on, when it grows, and that no of it is a
restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun
from diht_k8s.pipeline.attempts import Attempt, CommittedWork, LivingGang
from diht_k8s.pipeline.plan import Observed, Resize, RunPlan, Start, Stop, plan
from diht_k8s.pipeline.run_status import RunStatus, StageTime
from tests.unit.pipeline.situations import BEFORE_T, PENDING, RUN_T, RUNNING, T, at, attempt, make_run

TRAIN = {"model": "ViT-B-16", "samples": 48 * 1000, "batchSize": 48, "numNodes": 4, "minNodes": 2}
SINCE = 50.0
DUE = SINCE + 60
RECORD = replace(RUN_T, restarts=0)


def elastic(*, policy: dict[str, Any] | None = None, suspend: bool = False, **train: Any) -> DihtRun:
    chosen = {name: value for name, value in {**TRAIN, **train}.items() if value is not None}
    rules = {"restart": "InPlace", "maxRestarts": 0, "maxInfrastructureRestarts": 0, **(policy or {})}
    return make_run(train=chosen, failurePolicy=rules, suspend=suspend)


def gang(there: set[int], *, without: tuple[int, ...] = (), running: set[int] | None = None, **more: Any) -> Attempt:
    found = LivingGang(
        4, frozenset(there), frozenset(there if running is None else running), without, changed_at=SINCE, **more
    )
    if found.whole:
        return attempt(T, 3, RUNNING, living_gang=found)
    return attempt(T, 3, PENDING, living_gang=found, partially_started_at=SINCE, placed=len(there))


def decide(run: DihtRun, seen: Attempt, now: float, status: RunStatus | None = None) -> RunPlan:
    return plan(run, Observed((seen,)), now, status=status or at(*BEFORE_T, RECORD))


@pytest.mark.parametrize(
    ("train", "policy", "seen", "now", "without"),
    [
        ({}, {}, gang({0, 1, 3}), DUE - 1, None),
        ({}, {}, gang({0, 1, 3}), DUE, (2,)),
        ({}, {"elasticAfterSeconds": 100}, gang({0, 1, 3}), DUE, None),
        ({}, {}, gang({0, 3}), DUE, (1, 2)),
        ({}, {}, gang({0}), DUE, None),
        ({"minNodes": None}, {}, gang({0, 1, 3}), DUE, None),
        ({"model": "RN50", "batchSize": 8}, {}, gang({0, 1, 3}), DUE, (2, 3)),
        ({}, {}, gang({0, 1, 2, 3}), 1e6, None),
        ({}, {}, gang({0, 1, 3}, without=(2,)), 1e6, None),
        ({}, {}, gang({0, 1, 2}, without=(2,), decided_at=SINCE), DUE, (3,)),
        ({}, {}, gang({0, 3}, without=(2,), decided_at=SINCE), DUE, (1, 2)),
        ({}, {}, gang({0, 1, 3}, running={0, 1}), DUE, (2,)),
    ],
    ids=[
        "waits a while",
        "then goes on with those that are there",
        "a longer while",
        "as few as allowed",
        "too few",
        "rigid by now",
        "equal parts",
        "all are there",
        "has been decided",
        "one that has come takes the place of one that has gone",
        "once more",
        "one whose image is pulled is there",
    ],
)
def test_gang_goes_on_with_the_nodes_that_are_there(
    train: dict[str, Any], policy: dict[str, Any], seen: Attempt, now: float, without: tuple[int, ...] | None
) -> None:
    made = decide(elastic(policy=policy, **train), seen, now)
    assert made.actions == (() if without is None else (Resize(T, 3, "r-train-3", without),))
    assert made.status.of(T) == RECORD, "it is the same attempt, and nothing counts"


AWAY = {"without": (2,), "decided_at": SINCE}


@pytest.mark.parametrize(
    ("train", "policy", "seen", "now", "without"),
    [
        ({}, {}, gang({0, 1, 2, 3}, **AWAY), SINCE + 599, None),
        ({}, {}, gang({0, 1, 2, 3}, **AWAY), SINCE + 600, ()),
        ({}, {"elasticEverySeconds": 20}, gang({0, 1, 2, 3}, **AWAY), SINCE + 20, ()),
        ({}, {}, gang({0, 1, 2, 3}, running={0, 1, 3}, **AWAY), SINCE + 600, None),
        ({}, {}, gang({0, 1, 3, 2}, without=(2, 3), decided_at=SINCE, running={0, 1, 3}), SINCE + 600, (2,)),
        ({"model": "RN50", "batchSize": 8}, {}, gang({0, 1, 2}, without=(2, 3), decided_at=SINCE), SINCE + 600, None),
    ],
    ids=[
        "not too often",
        "after a while",
        "a shorter while",
        "not before it runs",
        "those that run",
        "no number that is allowed",
    ],
)
def test_gang_takes_in_the_nodes_that_have_come(
    train: dict[str, Any], policy: dict[str, Any], seen: Attempt, now: float, without: tuple[int, ...] | None
) -> None:
    made = decide(elastic(policy=policy, **train), seen, now)
    assert made.actions == (() if without is None else (Resize(T, 3, "r-train-3", without),))


@pytest.mark.parametrize(
    ("position", "grows"), [(0, True), (500, True), (879, True), (881, False)], ids=["unknown", "half", "just", "not"]
)
def test_gang_grows_unless_the_restart_costs_more_than_the_rest_of_the_training_gains(
    position: int, grows: bool
) -> None:
    record = replace(
        RECORD, work=CommittedWork(position, 2 * position), time=StageTime(start_up={"imports": 50.0, "model": 10.0})
    )  # of a rest of 240 s three of four nodes would take a quarter more than four
    made = decide(elastic(), gang({0, 1, 2, 3}, **AWAY), SINCE + 600, at(*BEFORE_T, record))
    assert bool(made.actions) is grows


def test_gang_that_waits_for_its_decision_is_not_withdrawn_meanwhile() -> None:
    made = decide(elastic(policy={"elasticAfterSeconds": 5000}), gang({0, 1}), SINCE + 4000)
    assert (made.actions, made.status.of(T)) == ((), RECORD)


@pytest.mark.parametrize(
    ("seen", "now", "wakes"),
    [(gang({0, 1, 3}), DUE - 30, DUE), (gang({0, 1, 2, 3}, **AWAY), SINCE + 100, SINCE + 600)],
    ids=["to shrink", "to grow"],
)
def test_gang_is_looked_at_again_when_its_time_is_over(seen: Attempt, now: float, wakes: float) -> None:
    assert decide(elastic(), seen, now).wake_at == wakes


@pytest.mark.parametrize(
    ("train", "seen", "without"),
    [
        ({"minNodes": 4}, gang({0, 1, 3}), None),
        ({"numNodes": 8}, gang({0, 1, 3}), (2,)),
        ({"numNodes": 8}, gang({0, 1, 2, 3}, **AWAY), ()),
        ({"numNodes": 3, "minNodes": 3}, gang({0, 1, 3}), (2,)),
        ({"numNodes": 8, "minNodes": 6}, gang({0, 1, 3}), None),
    ],
    ids=[
        "fewer are not allowed",
        "of its own pods",
        "and no more than these",
        "as many as wished for",
        "more than it has",
    ],
)
def test_edit_counts_as_far_as_the_gang_has_pods(
    train: dict[str, Any], seen: Attempt, without: tuple[int, ...] | None
) -> None:
    made = decide(elastic(**train), seen, SINCE + 650)
    assert [each.without for each in made.actions if isinstance(each, Resize)] == ([] if without is None else [without])


@dataclass
class Story:
    """A gang among nodes that come and go; it loses its first node rarely. Rules that hold at each step."""

    rng: Random
    least: int
    now: float = 0.0
    down: set[int] = field(default_factory=set)
    """nodes, each of which has room for one pod; pod 0 stays on node 0."""
    since: float = 0.0
    without: tuple[int, ...] = ()
    decided_at: float | None = None
    number: int = 0
    grown_at: list[float] = field(default_factory=list)
    forced: int = 0
    losses: int = 0
    status: RunStatus = field(default_factory=RunStatus)
    broken: list[str] = field(default_factory=list)

    def play(self) -> None:
        for turn in range(200):
            self.now += self.rng.choice((1.0, 20.0, 70.0))
            if turn < 140:
                self._happen()
            elif self.down:
                self.down.pop()
                self.since = self.now
            self._decide()
        if self.without or self.down:
            self.broken.append("it does not end on all nodes")
        if any(later - former < 600 for former, later in zip(self.grown_at, self.grown_at[1:], strict=False)):
            self.broken.append(f"it grew too often: {self.grown_at}")
        if self.status.of(T).total_restarts > self.losses:
            self.broken.append("a resizing was counted as a restart")

    def _happen(self) -> None:
        happens = self.rng.choice(("", "", "", "lost", "lost", "returns", "first"))
        if happens == "first" and self.rng.random() < 0.2 and self.number:  # its gang is created again
            self.losses, self.number = self.losses + 1, 0
            self.without, self.decided_at, self.since = (), None, self.now
        elif happens == "lost":
            self.down.add(self.rng.randint(1, 3))
            self.since = self.now
        elif happens == "returns" and self.down:
            self.down.discard(self.rng.choice(sorted(self.down)))
            self.since = self.now

    def _decide(self) -> None:
        run = elastic(minNodes=self.least, policy={"maxInfrastructureRestarts": 1000})
        seen: tuple[Attempt, ...] = ()
        if self.number:
            there = frozenset({0, 1, 2, 3} - self.down)
            living = LivingGang(4, there, there, self.without, self.decided_at, self.since)
            partly = None if living.whole else self.since
            seen = (
                attempt(
                    T,
                    self.number,
                    RUNNING if living.whole else PENDING,
                    living_gang=living,
                    partially_started_at=partly,
                    placed=len(there),
                ),
            )
        decided = plan(run, Observed(seen), self.now, status=self.status or at(*BEFORE_T))
        before = self.status.of(T).total_restarts
        self.status = decided.status
        self.losses += decided.status.of(T).total_restarts - before if seen else 0  # withdrawn: too few for long
        for action in decided.actions:
            if isinstance(action, Resize):
                self._resize(action)
            elif isinstance(action, Start) and action.stage is T:
                if self.number:
                    self.broken.append("a second gang")
                self.number, self.without, self.decided_at, self.since = action.number, (), None, self.now
            elif isinstance(action, Stop):
                self.number = 0

    def _resize(self, action: Resize) -> None:
        members, new = {0, 1, 2, 3} - set(self.without), {0, 1, 2, 3} - set(action.without)
        if 0 not in new or len(new) < self.least or new & self.down:
            self.broken.append(f"goes on with {new} while {self.down} are down")
        if members & self.down:
            self.forced += 1
            if self.now < self.since + 60:
                self.broken.append("it did not wait")
        else:
            self.grown_at.append(self.now)
            if len(new) <= len(members):
                self.broken.append("it was resized for no gain")
        self.without, self.decided_at = action.without, self.now


def test_random_losses_and_returns_end_on_all_nodes_and_cost_no_restart() -> None:
    forced = grown = 0
    for seed in range(40):
        story = Story(Random(seed), least=1 + seed % 3, status=at(*BEFORE_T))
        story.play()
        assert story.broken == [], seed
        forced, grown = forced + story.forced, grown + len(story.grown_at)
    assert forced > 40
    assert grown > 20
