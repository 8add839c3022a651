"""Elastic gangs: when a training shrinks and by how much, and that each later attempt wishes for all nodes again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt
from diht_k8s.pipeline.elasticity import share_of
from diht_k8s.pipeline.plan import LowerMinCount, Observed, RunPlan, Start, Stop, plan
from diht_k8s.pipeline.run_status import RunStatus, StageRecord
from tests.unit.pipeline.situations import BEFORE_T, FAILED, PENDING, RUN_T, RUNNING, T, at, attempt, make_run

TRAIN = {"model": "ViT-B-16", "samples": 48, "batchSize": 48, "numNodes": 4, "minNodes": 2}
RESNET = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": {}}
SINCE = 50.0
DUE = SINCE + 60


def elastic(*, policy: dict[str, Any] | None = None, **train: Any) -> DihtRun:
    chosen = {name: value for name, value in {**TRAIN, **train}.items() if value is not None}
    return make_run(train=chosen, failurePolicy=policy or {})


def partial(placed: int, **more: Any) -> Attempt:
    return attempt(T, 3, PENDING, active=4, partially_started_at=SINCE, placed=placed, **more)


def decide(run: DihtRun, seen: Attempt, now: float, status: RunStatus | None = None) -> RunPlan:
    return plan(run, Observed((seen,)), now, status=status or at(*BEFORE_T, RUN_T))


@pytest.mark.parametrize(
    ("train", "policy", "placed", "now", "nodes"),
    [
        ({}, {}, 3, DUE - 1, None),
        ({}, {}, 3, DUE, 3),
        ({}, {}, 2, DUE, 2),
        ({}, {}, 1, DUE, None),
        ({"minNodes": None}, {}, 3, DUE, None),
        ({}, {"elasticAfterSeconds": 100}, 3, DUE, None),
        ({}, {"elasticAfterSeconds": 900, "schedulingTimeoutSeconds": 60}, 3, DUE, 3),
        ({"numNodes": 3}, {}, 3, DUE, 3),
        ({"model": None, "modelConfig": RESNET, "batchSize": 8}, {}, 3, DUE, 2),
        ({"model": "RN50", "batchSize": 8}, {}, 3, DUE, 2),
        ({"model": "RN50", "batchSize": 8, "minNodes": 3}, {}, 3, DUE, None),
        ({"model": "RN50", "batchSize": 48, "microBatchSize": 12}, {}, 3, DUE, 2),
        ({"model": "RN50", "batchSize": 8, "lockImageTower": True}, {}, 3, DUE, 3),
        ({"batchSize": 8, "processesPerNode": 2}, {}, 3, DUE, 3),
    ],
    ids=[
        "waits a while",
        "then goes on with those that have room",
        "with the fewest allowed",
        "waits where too few have room",
        "rigid",
        "a longer while",
        "before it would be withdrawn",
        "an edit asks for fewer",
        "a ResNet's parts are equal",
        "also by its name",
        "no number with equal parts is allowed",
        "micro-batches are equal, too",
        "a locked tower keeps its statistics",
        "a ViT's parts may be unequal",
    ],
)
def test_gang_shrinks_to_the_nodes_that_have_room(
    train: dict[str, Any], policy: dict[str, Any], placed: int, now: float, nodes: int | None
) -> None:
    made = decide(elastic(policy=policy, **train), partial(placed), now)
    record = made.status.of(T)
    assert record.nodes == nodes
    if nodes is None:
        assert (made.actions, record.state) == ((), StageState.RUNNING)
    else:
        assert (made.actions, record.state) == ((Stop(T, 3, "r-train-3"),), StageState.RESTARTING)


@pytest.mark.parametrize(
    ("newest", "now", "nodes"),
    [(DUE - 1, DUE, None), (DUE - 1, DUE + 59, 3), (SINCE + 590, SINCE + 599, None), (SINCE + 590, SINCE + 600, 3)],
    ids=["one has just started", "none for a while", "as long as it is not withdrawn", "but no longer"],
)
def test_gang_whose_pods_still_find_nodes_one_by_one_waits_on(newest: float, now: float, nodes: int | None) -> None:
    made = decide(elastic(), partial(3, newest_start_at=newest), now)
    assert made.status.of(T).nodes == nodes
    assert made.status.of(T).total_restarts == RUN_T.total_restarts


@pytest.mark.parametrize(
    "waits", [partial(3), attempt(T, 3, PENDING, unplaced_since=SINCE, pods=3)], ids=["some", "none"]
)
def test_gang_that_is_suspended_as_its_wait_ends_is_stopped_and_not_resized(waits: Attempt) -> None:
    made = decide(make_run(train=TRAIN, suspend=True), waits, DUE)
    assert made.actions == (Stop(T, 3, "r-train-3"),)
    assert (made.status.of(T).state, made.status.of(T).nodes) == (StageState.RUNNING, None)


def on_faulty_nodes(healthy: int) -> Attempt:
    return attempt(T, 3, RUNNING, active=4, faulty_since=SINCE, placed=healthy)


def unplaced(pods: int, **more: Any) -> Attempt:
    return attempt(T, 3, PENDING, active=pods, unplaced_since=SINCE, pods=pods, **more)


LOWERED = replace(RUN_T, min_count=2)


@pytest.mark.parametrize(
    ("train", "seen", "now", "before", "count"),
    [
        ({}, unplaced(4, pod_group="r-train-3"), DUE - 1, RUN_T, None),
        ({}, unplaced(4, pod_group="r-train-3"), DUE, RUN_T, 2),
        ({}, unplaced(4, pod_group="r-train-3"), DUE + 900, LOWERED, 2),
        ({}, unplaced(4, pod_group="r-train-3"), SINCE, LOWERED, 2),
        ({}, partial(3, pod_group="r-train-3"), DUE - 1, LOWERED, None),
        ({}, unplaced(4), DUE, RUN_T, None),
        ({"minNodes": None}, unplaced(4, pod_group="r-train-3"), DUE, RUN_T, None),
        ({"minNodes": 4}, unplaced(4, pod_group="r-train-3"), DUE, RUN_T, None),
        ({"model": "RN50", "batchSize": 8, "minNodes": 3}, unplaced(4, pod_group="r-train-3"), DUE, RUN_T, None),
        ({"numNodes": 3}, unplaced(4, pod_group="r-train-3"), DUE, RUN_T, 2),
    ],
    ids=[
        "waits a while",
        "then fewer are enough",
        "for as long as it waits",
        "for a new operator, too",
        "not once some have nodes",
        "no PodGroup",
        "rigid",
        "needs all",
        "no number with equal parts is allowed",
        "fewer are wished for since",
    ],
)
def test_pod_group_of_which_no_pod_finds_a_node_needs_the_fewest_only(
    train: dict[str, Any], seen: Attempt, now: float, before: StageRecord, count: int | None
) -> None:
    made = decide(elastic(**train), seen, now, at(*BEFORE_T, before))
    assert made.status.of(T) == replace(RUN_T, min_count=count)
    assert made.actions == (() if count is None else (LowerMinCount(T, "r-train-3", count),))
    assert decide(elastic(**train), seen, now, made.status).actions == made.actions, "asked until a pod has a node"


@pytest.mark.parametrize(
    ("train", "pods", "now", "nodes"),
    [
        ({}, 3, DUE - 1, None),
        ({}, 3, DUE, 4),
        ({}, 4, DUE, None),
        ({"minNodes": None}, 3, DUE, None),
        ({"numNodes": 6}, 4, DUE, 6),
    ],
    ids=["waits a while", "then asks for all", "has asked for all", "rigid", "as an edit says"],
)
def test_shrunk_gang_of_which_no_pod_finds_a_node_asks_for_all_again(
    train: dict[str, Any], pods: int, now: float, nodes: int | None
) -> None:
    run, before = elastic(policy={"maxInfrastructureRestarts": 0}, **train), at(*BEFORE_T, replace(RUN_T, restarts=0))
    made = decide(run, unplaced(pods), now, before)
    assert made.status.of(T).nodes == nodes
    if nodes is None:
        assert (made.actions, made.status.of(T).state) == ((), StageState.RUNNING)
        return
    assert made.actions == (Stop(T, 3, "r-train-3"),)
    started = plan(run, Observed(), now + 1, status=made.status)
    assert started.actions == (Start(T, 4, "r-train-4"),)
    assert started.status.of(T) == replace(RUN_T, restarts=0, attempt=4)


@pytest.mark.parametrize(
    ("seen", "now", "wakes"),
    [
        (partial(3), DUE - 30, DUE),
        (partial(3, newest_start_at=SINCE + 20), DUE - 30, DUE + 20),
        (partial(1), DUE + 30, SINCE + 600),
        (unplaced(3), DUE - 30, DUE),
        (on_faulty_nodes(3), DUE - 30, DUE),
    ],
    ids=["to shrink", "to shrink later", "to be withdrawn, if it cannot", "to ask for all", "to leave faulty nodes"],
)
def test_waiting_gang_is_looked_at_again_when_its_time_is_over(seen: Attempt, now: float, wakes: float) -> None:
    assert decide(elastic(), seen, now).wake_at == wakes


@pytest.mark.parametrize(
    ("train", "start"),
    [
        ({"minNodes": 3}, 3),
        ({"minNodes": 4}, None),
        ({"minNodes": None}, None),
        ({"numNodes": 3}, None),
        ({"numNodes": 2}, None),
        ({"numNodes": 8}, 3),
    ],
    ids=[
        "as few as allowed",
        "fewer than allowed",
        "rigid by now",
        "all by now",
        "more than all",
        "even more wished for",
    ],
)
def test_edit_counts_when_the_next_attempt_starts(train: dict[str, Any], start: int | None) -> None:
    given = at(*BEFORE_T, StageRecord(T, StageState.RESTARTING, 3, nodes=3))
    assert plan(elastic(**train), Observed(), 9.0, status=given).actions == (Start(T, 4, "r-train-4", nodes=start),)


@pytest.mark.parametrize(
    ("least", "wished", "nodes", "share"),
    [(2, 4, 3, 0.75), (2, 4, 4, 1.0), (2, 4, 6, 1.0), (None, 4, 3, 1.0)],
    ids=["fewer", "all", "more than an edit wishes for", "rigid"],
)
def test_share_is_of_the_nodes_that_an_elastic_training_wishes_for(
    least: int | None, wished: int, nodes: int, share: float
) -> None:
    assert share_of(elastic(minNodes=least, numNodes=wished).spec.train, nodes) == share


@dataclass
class Gang:
    """The newest attempt in a small world: each node has room for one of its pods."""

    number: int
    nodes: int
    since: float
    stopped: bool = False
    lost: bool = False


class Story:
    """A training among nodes that come and go, with rules that hold at each step."""

    gang: Gang | None = None

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.least, self.wished = self.rng.randint(1, 4), 4
        self.now, self.up, self.suspended = 0.0, 4, False
        self.lost, self.timeouts, self.shrunk, self.regrown = 0, 0, 0, 0
        self.status, self.broken = RunStatus(), list[str]()

    def play(self) -> None:
        for turn in range(160):
            self._happen(calm=turn >= 120)
            self._decide()
        restarts = self.status.of(T).total_restarts
        if restarts > self.lost + self.timeouts:
            self.broken.append(f"{restarts} restarts by {self.lost} losses and {self.timeouts} timeouts")
        if self.gang is None or self.gang.stopped or self.gang.lost:
            self.broken.append("nothing trains though all nodes are there")

    def _happen(self, *, calm: bool) -> None:
        self.now += self.rng.choice((1.0, 20.0, 70.0))
        happens = (
            "returns" if calm else self.rng.choice(("", "", "", "", "loses", "loses", "returns", "suspends", "edits"))
        )
        if happens == "loses" and self.up:
            self.up -= 1
            if self.gang is not None and self.up < self.gang.nodes and not (self.gang.lost or self.gang.stopped):
                self.gang.lost, self.lost = True, self.lost + 1
        if happens == "returns":
            self.up = min(4, self.up + 1)
        if happens == "suspends" or (calm and self.suspended):
            self.suspended = not self.suspended
        if happens == "edits":
            self.wished = self.rng.randint(self.least, 4)
        if self.gang is not None and self.gang.stopped and self.rng.random() < 0.5:
            self.gang = None

    def _decide(self) -> None:
        run, seen = edited(self.least, self.wished, suspend=self.suspended), Observed(tuple(self._seen()))
        decided = plan(run, seen, self.now, status=self.status)
        if plan(run, seen, self.now, status=decided.status).status != decided.status:
            self.broken.append("a second look at the same facts changed the status")
        before, record = self.status.of(T), decided.status.of(T)
        if record.total_restarts > before.total_restarts and record.failure is not None:
            self.timeouts += record.failure.reason == "SchedulingTimeout"
        if (before.state, record.state) == (StageState.RUNNING, StageState.RESTARTING) and record.nodes is not None:
            assert self.gang is not None
            self.regrown += record.nodes > self.gang.nodes
            if self.now < self.gang.since + 60:
                self.broken.append(f"a gang gave way after {self.now - self.gang.since} s")
        self.status = decided.status
        for action in decided.actions:
            if isinstance(action, Start):
                self._start(action)
            elif self.gang is not None:
                self.gang.stopped = True

    def _seen(self) -> Iterator[Attempt]:
        if self.gang is None:
            return
        gang, placed = self.gang, min(self.gang.nodes, self.up)
        if gang.lost:
            yield attempt(T, gang.number, FAILED, infrastructure=True, reason="NodeLost", active=1, ending=gang.stopped)
        elif gang.stopped or placed == gang.nodes:
            yield attempt(T, gang.number, RUNNING, ending=gang.stopped)
        else:
            partly, none = (gang.since, None) if placed else (None, gang.since)
            yield attempt(
                T,
                gang.number,
                PENDING,
                partially_started_at=partly,
                placed=placed,
                unplaced_since=none,
                pods=gang.nodes,
            )

    def _start(self, start: Start) -> None:
        if self.gang is not None:
            self.broken.append("a second gang was started beside the first")
        nodes = self.wished if start.nodes is None else start.nodes
        if not self.least <= nodes <= self.wished:
            self.broken.append(f"{nodes} nodes are not from {self.least} to {self.wished}")
        self.shrunk += nodes < self.wished
        self.gang = Gang(start.number, nodes, self.now)


@cache
def edited(least: int, wished: int, *, suspend: bool) -> DihtRun:
    train = {**TRAIN, "minNodes": least, "numNodes": wished, "distillation": {"mode": "Disabled"}}
    policy = {"maxRestarts": 0, "schedulingTimeoutSeconds": 300}
    return make_run(filter=None, label=None, evaluate=None, train=train, failurePolicy=policy, suspend=suspend)


def test_hundred_stories_have_one_gang_at_a_time_and_no_restart_for_a_resizing() -> None:
    stories = [Story(seed) for seed in range(100)]
    for story in stories:
        story.play()
    assert {seed: story.broken for seed, story in enumerate(stories) if story.broken} == {}
    assert sum(story.shrunk for story in stories) > 50
    assert sum(story.regrown for story in stories) > 5
