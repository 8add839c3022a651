"""Fuzzed stories: a run against a cluster in which everything happens at once, for a while; then it must end.

In: a seed. Out: how the run ended, and every rule that was broken on the way.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from diht_k8s.api.errors import ComputedElsewhere
from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Cause
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageStatus, Status
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.node_health.faults import NodeFault
from diht_k8s.controller.reconcile import InternalError
from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.kube.errors import ClusterError
from diht_k8s.pipeline.run_status import FINAL, RunState
from tests.fuzz.world import Doc, OtherRun, World
from tests.unit.controller.documents import NOW
from tests.unit.controller.fake import Dead, Nodes, Process
from tests.unit.controller.kueue import Kueue
from tests.unit.controller.stories import ONE, SPEC

TURBULENT: Final = 120
"""Turns in which faults happen."""
MOST_TURNS: Final = 2500
RESYNC_S: Final = 600
NO_DISTILLATION: Final = {"train": {**SPEC["train"], "distillation": {"mode": "Disabled"}}}
SHAPES: Final[tuple[Doc, ...]] = ({}, ONE, {"filter": None, "label": None, "evaluate": None, **NO_DISTILLATION})


EVERY_S: Final = 60
QUEUED: Final = {"queueName": "gpus", "queueing": "PerRun", "resources": {"cpu": "1"}}


@dataclass
class Ended:
    """How a story ended."""

    state: RunState
    reason: Reason | None
    faults: Counter[str]
    broken: list[str] = field(default_factory=list)
    """rules that were broken."""


class Story:
    """One run, one operator at a time, one cluster."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.world, self.faults = World(rng), Counter[str]()
        self.rate = rng.choice((0.05, 0.15, 0.4))
        self.policy: dict[str, Any] = {
            "maxRestarts": rng.choice((0, 1, 3, 10)),
            "maxInfrastructureRestarts": rng.choice((3, 1000)),
            "healSeconds": rng.choice((30, 3600)),
        }
        spec = {**SPEC, **rng.choice(SHAPES), "failurePolicy": self.policy}
        self.in_place = in_place = seed % 8 == 4
        self.least = 1 + seed // 4 % 3 if seed % 4 == 2 or in_place else None
        """of an elastic training's nodes, of which each has room for one pod."""
        if self.least is not None:
            self.world.one_each, self.policy["elasticAfterSeconds"] = True, 30
            self.world.pod_groups = seed % 8 == 2
            alone = {**NO_DISTILLATION["train"], "numNodes": 4, "minNodes": self.least}
            if in_place:
                self.rate /= 5  # most other faults end its pods
                self.policy |= {"restart": "InPlace", "elasticEverySeconds": 30}
                alone["samples"] = 8 * 10**5  # so that there is always something to gain
                self.world.work["train"] = 1500
            spec |= {"filter": None, "label": None, "evaluate": None, "train": alone}
            if seed % 16 == 6:
                self.world.queues, self.policy["elasticEverySeconds"] = False, EVERY_S
                self.world.kueue = Kueue(self.world, nodes=4, clock=lambda: self.world.now)
                self.world.clock, spec["pods"] = self.world.kueue.clock, {**SPEC["pods"], **QUEUED}
        self.deadline_s = rng.choice((None, None, None, 400))
        if self.deadline_s is not None:
            spec["activeDeadlineSeconds"] = self.deadline_s
        if rng.random() < 0.2:
            spec["ttlSecondsAfterFinished"] = 300
        spec = {key: value for key, value in spec.items() if value is not None}
        document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "r"}, "spec": spec}
        self.world.add_run(document)
        self.world.other = _other_run(Random(-seed)) if seed % 3 == 1 else None
        self.clock_ahead, self.due = 0.0, 0.0
        self.nodes = Nodes() if seed % 8 == 6 else None
        """what a node monitor reports; None: there is none."""
        self.process: Process | None = Process(self.world, self.clock, self.nodes)
        self.status = Status()
        self.broken: list[str] = []
        self.ends: dict[str, set[int]] = {"Resized": set(), "QuotaChanged": set(), "SchedulingTimeout": set()}
        """numbers of attempts at the training that ended so."""
        self.sized: dict[str, tuple[int, float]] = {}
        """nodes of the gangs by name, and when they were first looked at."""
        self.grown = 0
        """gangs that gave way to a larger one for quota."""
        self.lowered: set[str] = set()
        """names of the PodGroups that need fewer pods than their gang has."""

    def clock(self) -> float:
        """The operator's own clock."""
        return self.world.now + self.clock_ahead

    def play(self) -> Ended:
        """From the first reconciliation to some time after the end."""
        rest = 60
        for turn in range(MOST_TURNS):
            calm = turn >= TURBULENT
            self.world.dies = 0.0 if calm else 0.03
            if not calm and self.rng.random() < self.rate:
                self.rng.choice(FAULTS)(self)
                if self.least is not None and self.rng.random() < 0.25:
                    happens = (
                        (_other_size, _node_goes, _node_goes)
                        if self.nodes is None
                        else (_other_size, _node_goes, _monitor_reports)
                    )
                    self.rng.choice(happens)(self)
                if self.world.kueue is not None and self.rng.random() < 0.4:
                    self.world.kueue.take_back(self.rng.choice((0, 1, 2, 3, 4, 4)))
            if not calm:
                self._drain()
            else:
                self._calm_down()
            self.world.pass_time(self.rng.choice((1, 1, 2, 5, 15, 40)))
            self._operate(lag=not calm)
            self._check()
            rest -= self._final
            if not rest:
                break
        else:
            self.broken.append(f"does not end: {self.status.conditions}")
        saved = saved_run_status(self.status)
        self.faults += Counter({"another run": self.world.gave_way})
        self.faults += Counter({"shrunk": len(self.ends["Resized"]), "lowered": len(self.lowered)})
        self.faults += Counter({"resized for quota": len(self.ends["QuotaChanged"]), "grown": self.grown})
        if self.world.kueue is not None and self.world.kueue.held_nodes:
            self.broken.append("quota is held after the end")
        pairs = list(zip(self.world.sizes, self.world.sizes[1:], strict=False))
        shrunk = sum(old[0] == new[0] and old[1] > new[1] for old, new in pairs)
        grown = sum(old[0] == new[0] and old[1] < new[1] for old, new in pairs)
        self.faults += Counter({"shrunk in place": shrunk, "grown in place": grown})
        if self.world.alive():
            self.broken.append("programs run after the end")
        if self.world.jobs and "r" not in self.world.runs:
            self.broken.append("Jobs of a run that is gone")
        return Ended(saved.state, saved.reason, self.faults, self.broken + self._without_cause(saved.reason))

    @property
    def _final(self) -> bool:
        return saved_run_status(self.status).state in FINAL

    def _drain(self) -> None:
        """Nodes of a gang that resizes in its living pods go and come."""
        if self.in_place and self.rng.random() < 0.15:
            self.rng.choice((_drained, _drained, _uncordoned))(self)

    def _calm_down(self) -> None:
        """No more faults: nodes come back, and a person resumes the run."""
        self.faults["calm"] = 1
        _uncordoned(self)
        if self.nodes is not None and self.nodes.found and self.rng.random() < 0.05:
            self.nodes.found, self.due = {}, 0.0
        if self.world.kueue is not None:
            self.world.kueue.nodes = 4
        for node, since in self.world.down.items():
            if since is not None and self.rng.random() < 0.2:
                _node_returns(self, node)
        run = self.world.runs.get("r")
        if run is not None and run["spec"].get("suspend") and self.rng.random() < 0.2:
            self.world.edit("r", suspend=False)

    def _operate(self, *, lag: bool) -> None:
        """What is due of the operator: after a change that its watches report, at the time that it asked for, or
        resync.
        """
        if self.process is None:
            if self.rng.random() < 0.3:
                self.process, self.due = Process(self.world, self.clock, self.nodes), 0.0
                self._watch(self.process, all_of_it=True)
                self._reconcile(self.process)
            return
        changed = self._watch(self.process, all_of_it=not lag)
        for _ in range(3):
            if not changed and self.world.now < self.due:
                return
            if not self._reconcile(self.process):
                return
            changed = self._watch(self.process, all_of_it=not lag)

    def _reconcile(self, process: Process) -> bool:
        """Reconcile once; False if the process died."""
        self.due = self.world.now + RESYNC_S
        try:
            wait_s = process.reconciler.reconcile(("n", "r"))
        except Dead:
            self.process, self.faults = None, self.faults + Counter(dead=1)
            return False
        except ClusterError as error:
            wait_s = 1.0
            if not (error.is_conflict or error.is_not_found):
                self.broken.append(f"ClusterError {error}")
        except InternalError as error:
            wait_s = 1.0
            self.broken.append(f"InternalError {error}")
        if wait_s is not None:
            self.due = min(self.due, self.world.now + wait_s)
        return True

    def _watch(self, process: Process, *, all_of_it: bool) -> bool:
        """Take in the cluster; each of the watches may lag. Returns whether anything was new."""
        changed = False
        workloads = self.world.others.get("Workload", {})
        watched = {"runs": self.world.runs, "jobs": self.world.jobs, "pods": self.world.pods, "workloads": workloads}
        for name, documents in watched.items():
            if not all_of_it and self.rng.random() < 0.3:
                continue
            newest = {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in documents.values()}
            if newest == self._known_to(process, name):
                continue
            changed = True
            self._take(process, name, copy.deepcopy(documents))
        return changed

    @staticmethod
    def _known_to(process: Process, name: str) -> dict[str, str]:
        """The versions that a process has, by UID."""
        if name != "runs":
            informer = {"jobs": process.jobs, "pods": process.pods, "workloads": process.workloads}[name]
            return {uid: each.version for uid, each in informer.summaries.items()}
        found = ((uid, process.runs.get(key) or process.runs.finished(key)) for key, uid in process.runs.uids())
        return {uid: str(each.version) for uid, each in found if each is not None}

    @staticmethod
    def _take(process: Process, name: str, documents: dict[str, Doc]) -> None:
        if name != "runs":
            informer = {"jobs": process.jobs, "pods": process.pods, "workloads": process.workloads}[name]
            informer.summaries = {}
            for document in documents.values():
                informer.put(document)
            return
        for document in documents.values():
            process.runs.put(cached_run(document))
        for key, uid in process.runs.uids():
            if key[1] not in documents:
                process.runs.remove(key, uid)

    def _check(self) -> None:
        """Rules that hold at any time."""
        alive = self.world.alive()
        if len(alive) > 1:
            self.broken.append(f"programs of two attempts run: {sorted(alive)}")
        run = self.world.runs.get("r")
        if run is None:
            for job in list(self.world.jobs.values()):
                self.world.remove_job(job, "Background")  # the garbage collector
            self.world.others.get("Workload", {}).clear()
            return
        kueue = self.world.kueue
        if kueue is not None and self.world.running() > kueue.held_nodes:
            self.broken.append(f"{self.world.running()} pods run on quota for {kueue.held_nodes}")
        was_final, before = self._final, _train(self.status)
        self.status = Status.model_validate(run.get("status") or {})
        now = _train(self.status)
        self._check_sizes()
        if now and before and _gave_way(now) and not _gave_way(before) and now.restarts > before.restarts:
            self.broken.append("a gang that gave way to another run was counted as a restart")
        if was_final and not self._final:
            self.broken.append("a final state was left")
        for stage in self.status.stages:
            if stage.restarts_count_towards_max > self.policy["maxRestarts"]:
                self.broken.append(f"{stage.name}: more restarts than allowed")

    def _check_sizes(self) -> None:
        """A new gang has as many nodes as allowed, and no resizing counts; what ended by itself is noted."""
        for each in self.status.attempts:
            if each.reason in self.ends:
                self.ends[each.reason].add(each.number)
                if each.counted:
                    self.broken.append(f"{each.reason} counts as a restart")
        for job in self.world.jobs.values():
            if self.least is None or job["metadata"]["labels"]["diht.dev/stage"] != "train":
                continue
            if (name := job["metadata"]["name"]) not in self.sized:
                self.sized[name] = (job["spec"]["parallelism"], self.world.now)
                if not self.least <= job["spec"]["parallelism"] <= 4:
                    self.broken.append(f"a gang of {job['spec']['parallelism']} nodes")
                self._check_growth(name)
            self._check_group(job)

    def _check_growth(self, name: str) -> None:
        """A gang that only quota makes larger comes late enough after the one before."""
        number = int(name.rpartition("-")[2])
        if number - 1 not in self.ends["QuotaChanged"]:
            return
        before, nodes = self.sized.get(f"r-train-{number - 1}"), self.sized[name][0]
        if before is not None and nodes > before[0]:
            self.grown += 1
            if self.world.now < before[1] + EVERY_S and not self.faults["clock"]:
                self.broken.append(f"grows {self.world.now - before[1]} s after it began")

    def _check_group(self, job: Doc) -> None:
        """A gang's PodGroup needs all its pods, or as few as allowed once they have waited."""
        group = self.world.others.get("PodGroup", {}).get(job["metadata"]["name"])
        if group is None or self.least is None:
            return
        needs, pods = group["spec"]["schedulingPolicy"]["gang"]["minCount"], job["spec"]["parallelism"]
        if needs not in (self.least, pods):
            self.broken.append(f"a PodGroup of {pods} pods needs {needs}")
        if needs < pods:
            self.lowered.add(job["metadata"]["name"])

        for uid, nodes in self.world.sizes:
            if self.least is None or not self.least <= nodes <= 4:
                self.broken.append(f"the gang of {uid} goes on with {nodes} nodes")

    def _without_cause(self, reason: Reason | None) -> list[str]:
        """Why the run may not end like this."""
        faults, policy = self.faults, self.policy
        infrastructure = sum(faults[name] for name in INFRASTRUCTURE) + len(self.ends["SchedulingTimeout"])
        may: dict[Reason | None, bool] = {
            None: True,
            Reason.COMPLETE: True,
            Reason.USER_ERROR: faults["64"] > 0,
            Reason.BAD_DATA: faults["65"] > 0,
            Reason.OUT_OF_MEMORY: faults["memory"] > 1,
            Reason.RESTARTS_EXHAUSTED: faults["crash"] + faults["memory"] + self.world.lost_first
            > policy["maxRestarts"],
            Reason.INFRASTRUCTURE_RESTARTS_EXHAUSTED: infrastructure > policy["maxInfrastructureRestarts"],
            Reason.DEADLINE_EXCEEDED: self.deadline_s is not None,
        }
        return [] if may.get(reason, False) else [f"ended by {reason}, which nothing caused: {dict(faults)}"]


def _other_run(rng: Random) -> OtherRun:
    """One that works on the training once or twice, each time for up to half an hour."""
    works, now = list[tuple[float, float]](), NOW
    for _ in range(rng.choice((1, 1, 2))):
        since = now + rng.choice((0, 60, 300))
        now = since + rng.choice((60, 300, 1800))
        works.append((since, now))
    return OtherRun(tuple(works), completes=rng.random() < 0.5)


def _train(status: Status) -> StageStatus | None:
    return next((stage for stage in status.stages if stage.stage is Stage.TRAIN), None)


def _gave_way(stage: StageStatus | None) -> bool:
    return stage is not None and stage.cause is not None and stage.cause.reason == ComputedElsewhere.__name__


Fault = Callable[[Story], None]


def _running(story: Story) -> Doc | None:
    pods = [pod for pod in story.world.pods.values() if pod["status"]["phase"] == "Running"]
    up = [pod for pod in pods if story.world.down[pod["spec"]["nodeName"]] is None]
    return story.rng.choice(up) if up else None


def _ends(code: int, fault: str, **how: Any) -> Fault:
    """A program ends by itself."""

    def happens(story: Story) -> None:
        pod = _running(story)
        if pod is not None:
            story.faults[fault] += 1
            story.world.end(pod, code, **how)

    return happens


def _disrupted(story: Story) -> None:
    pod = _running(story)
    if pod is not None:
        story.faults["disrupted"] += 1
        story.world.disrupt(pod, story.rng.choice(("EvictionByEvictionAPI", "PreemptionByScheduler")))
        story.world.mark_deleted(pod, 30)


def _pod_deleted(story: Story) -> None:
    if story.world.pods:
        story.faults["deleted"] += 1
        story.world.mark_deleted(story.rng.choice(list(story.world.pods.values())), 30)


def _job_deleted(story: Story) -> None:
    if story.world.jobs:
        story.faults["job deleted"] += 1
        job = story.rng.choice(list(story.world.jobs.values()))
        story.world.remove_job(job, story.rng.choice(("Foreground", "Background", "Orphan")))


def _node_goes(story: Story) -> None:
    story.faults["node"] += 1
    story.world.down.setdefault("node-0", None)
    story.world.down[story.rng.choice(list(story.world.down))] = story.world.now


def _monitor_reports(story: Story) -> None:
    """A fault of a node that runs pods and goes on to do so; or the faults of all are gone."""
    assert story.nodes is not None
    story.due = 0.0
    if story.rng.random() < 0.3:
        story.nodes.found = {}
        return
    node = story.rng.choice(["node-0", *story.world.down])
    story.faults["faulty"] += 1
    story.nodes.found = {**story.nodes.found, node: (NodeFault(node, "GpuXid", "condition GpuXid", at_once=True),)}


def _node_returns(story: Story, node: str = "") -> None:
    """Programs on it were killed."""
    node = node or story.rng.choice(list(story.world.down))
    for pod in story.world.pods.values():
        was_down = story.world.down[node] is not None and pod["spec"]["nodeName"] == node
        if was_down and pod["status"]["phase"] == "Running":
            story.world.end(pod, 137, reason="ContainerStatusUnknown")
    story.world.down[node] = None


def _drained(story: Story) -> None:
    """A node takes no new pods, and loses those that it has."""
    node = story.rng.choice(list(story.world.down))
    story.world.cordoned.add(node)
    for pod in story.world.pods.values():
        if pod["spec"]["nodeName"] == node and pod["status"]["phase"] == "Running":
            story.faults["disrupted"] += 1
            story.world.disrupt(pod, "EvictionByEvictionAPI")
            story.world.mark_deleted(pod, 30)


def _uncordoned(story: Story) -> None:
    story.world.cordoned.clear()


def _clock_jumps(story: Story) -> None:
    story.clock_ahead = story.rng.choice((-3600.0, -400.0, 0.0, 400.0, 3600.0))
    story.faults["clock"] += 1


def _suspended_or_resumed(story: Story) -> None:
    run = story.world.runs.get("r")
    if run is not None:
        story.faults["suspend"] += 1
        story.world.edit("r", suspend=not run["spec"].get("suspend", False))


def _other_size(story: Story) -> None:
    run = story.world.runs.get("r")
    if run is not None and story.least is not None:
        story.world.edit("r", train={**run["spec"]["train"], "numNodes": story.rng.randint(story.least, 4)})


INFRASTRUCTURE: Final = ("disrupted", "deleted", "job deleted", "node", "suspend", "faulty")
BAD_DATA: Final = Cause(exit_code=65, reason="DataError", message="a.tar is damaged").encoded()
FAULTS: Final[tuple[Fault, ...]] = (
    _ends(1, "crash"),
    _ends(75, "crash"),
    _ends(139, "crash"),
    _ends(137, "memory", reason="OOMKilled"),
    _disrupted,
    _disrupted,
    _pod_deleted,
    _job_deleted,
    _node_goes,
    _node_goes,
    _node_returns,
    _node_returns,
    _clock_jumps,
    _suspended_or_resumed,
    _suspended_or_resumed,
    lambda story: _ends(64, "64")(story) if story.rng.random() < 0.1 else None,
    lambda story: _ends(65, "65", message=BAD_DATA)(story) if story.rng.random() < 0.1 else None,
)
