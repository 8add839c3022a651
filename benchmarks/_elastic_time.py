"""Discrete-event simulation of elastic and rigid trainings around the real `plan()`, node by node. Pure.

On n of N nodes a second counts n / N, less the rows without a pair.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any, Final

from benchmarks._effective_time import DAY, GPUS_PER_NODE, MOST_EVENTS, Kind, Setting, document
from diht_k8s.api.run import Stage
from diht_k8s.pipeline.attempts import Attempt, AttemptState, CommittedWork, InPlaceRestarts
from diht_k8s.pipeline.failure_policy import BackOff
from diht_k8s.pipeline.plan import Observed, RunPlan, Start, Stop, plan
from diht_k8s.pipeline.run_status import FINAL, RunStatus

GROWS_EVERY_S: Final = 600.0
"""A gang grows in place no more often."""


@dataclass(frozen=True)
class Elasticity:
    """What a training does without all its nodes."""

    min_share: float | None = None
    """train.minNodes over numNodes; None: rigid."""
    in_place_s: float | None = None
    """start-up of a round in living pods, seconds; None: each restart and each other number of nodes is a new attempt.

    In place a gang also grows. No operator does that yet: it is modelled as issue and documents describe it.
    """
    stop_s: float = 5.0
    """from the request to stop to the end of the old gang's pods."""
    pairs_per_gpu: int = 64
    """of the global batch, where all nodes are there."""


@dataclass(frozen=True)
class ElasticResult:
    """How a simulated run went."""

    state: str
    days: float
    useful: float
    """useful GPU-seconds, without replay, start-up and padding, over those of the healthy GPUs, spares included."""
    failures: int
    resizings: int
    small: float
    """share of the time that it trained on fewer nodes than it wishes for."""
    waited_h: float
    """without training, since nodes were missing."""


@dataclass
class Gang:
    """The newest attempt."""

    number: int
    nodes: int
    begin_s: float
    """until the first step of its next round."""
    since: float
    """its first pods run."""
    newest: float
    runs: bool = False
    restarts: int = 0
    """in place."""
    failed_at: int = 0
    resized_at: float = -math.inf


@dataclass
class Machines:
    """The cluster's nodes, of which some are away for repair."""

    total: int
    away: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """from and until."""

    def there(self, now: float) -> int:
        """Nodes that are not away."""
        return self.total - sum(begun <= now < until for begun, until in self.away)

    def next_return(self, now: float) -> float:
        """When the next one is back."""
        return min((until for _, until in self.away if until > now), default=math.inf)

    def healthy_s(self, now: float) -> float:
        """Node-seconds up to now in which they were there."""
        return self.total * now - sum(min(until, now) - begun for begun, until in self.away if begun < now)


class ElasticSimulation:
    """One run, from its first attempt to its end."""

    def __init__(self, setting: Setting, elasticity: Elasticity, seed: int) -> None:
        """Make one; equal arguments give equal results. `setting.spares` are nodes beyond those wished for."""
        self._setting, self._elasticity = setting, elasticity
        self._random = random.Random(seed)
        self._wished = setting.gpus // GPUS_PER_NODE
        share = elasticity.min_share
        self._least = self._wished if share is None else math.ceil(share * self._wished)
        self._batch = elasticity.pairs_per_gpu * setting.gpus
        self._run = document(setting.policy, train=self._train())
        self._back_off = BackOff(setting.first_wait_s, jitter=self._random.random())
        self._machines = Machines(self._wished + setting.spares)
        self._need = setting.days * DAY
        self._now = self._saved = self._reached = 0.0
        self._gang: Gang | None = None
        self._failures = self._resizings = 0
        self._small = self._waited = 0.0

    def _train(self) -> dict[str, Any]:
        elastic = {} if self._elasticity.min_share is None else {"minNodes": self._least}
        shape = {"numNodes": self._wished, "processesPerNode": GPUS_PER_NODE, **elastic}
        sizes = {"samples": self._batch, "batchSize": self._batch}
        return {"model": "ViT-B-16", "distillation": {"mode": "Disabled"}, **sizes, **shape}

    def execute(self) -> ElasticResult:
        """Run to the end."""
        status, seen = RunStatus(), tuple[Attempt, ...]()
        for _ in range(MOST_EVENTS):
            decided = plan(self._run, Observed(seen), self._now, status=status, back_off=self._back_off)
            status = decided.status
            if status.state in FINAL or self._now > self._setting.most_days * DAY:
                break
            seen = self._after(decided, seen)
        healthy_s = self._machines.healthy_s(self._now)
        return ElasticResult(
            state=str(status.state),
            days=self._now / DAY,
            useful=self._saved * self._wished / healthy_s if healthy_s else 0.0,
            failures=self._failures,
            resizings=self._resizings,
            small=self._small / self._now if self._now else 0.0,
            waited_h=self._waited / 3600,
        )

    def _after(self, decided: RunPlan, seen: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        """What is there after the plan's actions, or after the next event."""
        action = next(iter(decided.actions), None)
        if isinstance(action, Start):
            nodes = action.nodes or self._wished
            self._resizings += nodes < self._wished
            self._gang = Gang(action.number, nodes, self._setting.startup_s, self._now, self._now)
            return self._play(self._gang)
        if isinstance(action, Stop):
            self._gang = None
            self._pass(self._now + self._elasticity.stop_s)
            return ()
        if self._gang is None:
            assert decided.wake_at is not None
            self._pass(decided.wake_at)
            return seen
        if not self._gang.runs:
            returns, wakes = self._machines.next_return(self._now), decided.wake_at or math.inf
            self._pass(min(returns, wakes))
            if returns <= wakes:
                self._gang.newest = self._now
        return self._play(self._gang)

    def _pass(self, until: float) -> None:
        """Wait without training."""
        self._waited, self._now = self._waited + until - self._now, until

    def _play(self, gang: Gang) -> tuple[Attempt, ...]:
        """Let a gang train until something happens, if all its pods have a node."""
        there = self._machines.there(self._now)
        if not gang.runs and there < gang.nodes:
            waits = Attempt(
                Stage.TRAIN,
                gang.number,
                AttemptState.PENDING,
                active=there,
                placed=there,
                started_at=gang.since,
                partially_started_at=gang.since,
                newest_start_at=gang.newest,
            )
            return (waits,)
        gang.runs = True
        began, setting = self._now, self._setting
        slower = 1 + setting.stall_s / setting.checkpoint_s
        ends_s = gang.begin_s + (self._need - self._saved) / self._speed(gang.nodes) * slower
        fault_s = self._random.expovariate(gang.nodes * GPUS_PER_NODE / (setting.gpu_hours_per_fault * 3600))
        grows_s = self._grows_at(gang) - began
        next_s = min(ends_s, fault_s, grows_s)
        self._now = began + next_s
        self._small += next_s if gang.nodes < self._wished else 0.0
        if next_s == ends_s:
            self._saved = self._need
            return (self._ended(gang, AttemptState.SUCCEEDED),)
        self._work(max(0.0, next_s - gang.begin_s) / slower, gang.nodes, saves=next_s == grows_s)
        if next_s == grows_s:
            self._now += setting.stall_s
            self._resize(gang, min(self._wished, self._machines.there(self._now)))
            return (self._running(gang),)
        return (self._fault(gang),)

    def _speed(self, nodes: int) -> float:
        """Work of a second on some nodes: each of their processes takes as many rows, also where some hold no pair."""
        rows = math.ceil(self._batch / (nodes * GPUS_PER_NODE))
        return self._batch / (rows * self._wished * GPUS_PER_NODE)

    def _grows_at(self, gang: Gang) -> float:
        """When a gang takes in nodes that are back; in place only, after the start of their pods and a checkpoint."""
        if self._elasticity.in_place_s is None or gang.nodes == self._wished:
            return math.inf
        back = self._now if self._machines.there(self._now) > gang.nodes else self._machines.next_return(self._now)
        return max(back + self._setting.startup_s, gang.resized_at + GROWS_EVERY_S, self._now + gang.begin_s)

    def _work(self, seconds: float, nodes: int, *, saves: bool) -> None:
        """Train for some seconds; what no checkpoint holds is lost."""
        every, speed = self._setting.checkpoint_s, self._speed(nodes)
        kept = seconds if saves else math.floor(max(0.0, seconds - self._setting.commit_s) / every) * every
        self._reached = self._saved + seconds * speed
        self._saved += min(kept, seconds) * speed

    def _resize(self, gang: Gang, nodes: int) -> None:
        assert self._elasticity.in_place_s is not None
        self._resizings += 1
        gang.nodes, gang.begin_s, gang.resized_at = nodes, self._elasticity.in_place_s, self._now

    def _fault(self, gang: Gang) -> Attempt:
        """What a fault makes of a gang."""
        mix = self._setting.mix
        kind = self._random.choices(mix, [each.share for each in mix])[0]
        self._failures += 1
        if kind.takes_node:
            repair_s = self._random.expovariate(1 / (self._setting.repair_h * 3600))
            self._machines.away.append((self._now, self._now + repair_s))
        self._now += kind.found_s
        if self._elasticity.in_place_s is not None and not kind.takes_node:
            gang.restarts, gang.begin_s = gang.restarts + 1, self._elasticity.in_place_s
            gang.failed_at = int(self._reached) + 1
            return self._running(gang)
        if self._elasticity.in_place_s is not None and self._goes_on(gang):
            return self._running(gang)
        self._gang = None
        return self._ended(gang, AttemptState.FAILED, kind)

    def _goes_on(self, gang: Gang) -> bool:
        """Whether a gang goes on in place without the node that it lost; the loss of its first one recreates it."""
        if self._random.random() < 1 / gang.nodes:
            return False
        if self._machines.there(self._now) >= gang.nodes:  # another takes its place
            gang.begin_s = self._setting.startup_s
            return True
        if gang.nodes - 1 < self._least:
            return False
        self._pass(self._now + self._run.spec.failure_policy.elastic_after_seconds)
        self._resize(gang, gang.nodes - 1)
        return True

    def _running(self, gang: Gang) -> Attempt:
        restarts = InPlaceRestarts(gang.number, gang.restarts, failed_at=gang.failed_at or None, exit_code=75)
        found = self._ended(gang, AttemptState.RUNNING)
        return replace(found, in_place=restarts if gang.restarts else None, active=gang.nodes, ended_at=None)

    def _ended(self, gang: Gang, state: AttemptState, kind: Kind | None = None) -> Attempt:
        work = CommittedWork(int(self._saved), int(self._saved)) if self._saved else None
        infrastructure = kind is not None and kind.infrastructure
        own = kind is not None and not infrastructure
        return Attempt(
            Stage.TRAIN,
            gang.number,
            state,
            work=work,
            started_at=gang.since,
            ended_at=self._now,
            infrastructure=infrastructure,
            exit_code=75 if own else None,
            failed_at=int(self._reached) + 1 if own else None,
        )
