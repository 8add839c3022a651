"""A cluster for fuzzed stories: Job controller, nodes and programs, played in jumps of time against the real
reconciler.

What it leaves out of Kubernetes: quotas, images, ranks that outlive a dead node. `Cluster.alive` names the Jobs whose
programs run, which must never be more than one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from diht_k8s.api.errors import NEVER_RETRIED, ComputedElsewhere
from diht_k8s.api.gangs import DECISION_ANNOTATION, decision_in
from diht_k8s.api.reports import COMMITTED, Cause, CommittedShards, Progress, SavedCheckpoint, TimeSpent
from diht_k8s.api.run import Stage
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.object_fields import RESIZES_ANNOTATION
from tests.unit.controller.documents import NO_NODE, NOW, at
from tests.unit.controller.fake import Dead, FakeCluster
from tests.unit.controller.kueue import Kueue

WORK: Final = {
    "filter": 90,
    "label-vocabulary": 5,
    "label-heads": 20,
    "label-predict": 60,
    "train": 200,
    "evaluate": 30,
}
"""Seconds of work of each part of a run; workers share it."""
CHECKPOINT_S: Final = 20
NOT_READY_S, EVICTED_S, GRACE_S = 40, 70, 30
JOB_TTL_S: Final = 900
Doc = dict[str, Any]


def condition(document: Doc, kind: str) -> Doc | None:
    """A condition that is True."""
    found = document.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind and each["status"] == "True"), None)


@dataclass(frozen=True)
class OtherRun:
    """Another run that wants the same training."""

    works: tuple[tuple[float, float], ...]
    """from when to when its gang works, seconds since the epoch, where this run's does not."""
    completes: bool
    """whether it has completed the training after the last of these times."""


class World(FakeCluster):
    """Objects as the API server keeps them, and what happens to them as time passes."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.rng, self.now, self.dies = rng, NOW, 0.0
        self.down: dict[str, float | None] = {f"node-{number}": None for number in range(4)}
        """since when a node is down."""
        self.work = dict(WORK)
        self.cordoned: set[str] = set()
        """nodes that take no new pods."""
        self.lost_first = 0
        """programs that ended as they lost launcher 0."""
        self.one_each = False
        """whether a node has room for one pod only."""
        self.kueue: Kueue | None = None
        """whose quota the training has in Workloads of its run."""
        self.done: Counter[str] = Counter()
        """seconds of work of each part that are done, committed or not."""
        self.failures: Counter[str] = Counter()
        self.counted: set[str] = set()
        """UIDs of pods whose end the Job controller has counted."""
        self.queues = rng.random() < 0.3
        self.other: OtherRun | None = None
        self.leased: set[str] = set()
        """UIDs of Jobs whose gang has found the training free."""
        self.gave_way = 0
        """gangs that found it computed by the other run."""
        self.rounds: dict[str, frozenset[str]] = {}
        """UIDs of the pods that train together, of each Job whose gang resizes in its living pods."""
        self.sizes: list[tuple[str, int]] = []
        """nodes of the rounds of such gangs, each with its Job's UID."""

    def create(self, document: Doc, *, dry_run: bool = False) -> Doc:
        document = {**document, "status": {}}
        if document["kind"] == "Job":
            document["spec"] = {**document["spec"], "suspend": self.queues}
            document["status"] = {} if self.queues else {"startTime": at(self.now)}
        return super().create(document, dry_run=dry_run)

    def delete_job(self, namespace: str, name: str, uid: str) -> None:
        job = self.jobs.get(name)
        if job is None:
            raise ClusterError(404, "NotFound", name)
        if job["metadata"]["uid"] != uid:
            raise ClusterError(409, "Conflict", "the UID in the precondition does not match")
        self.remove_job(job, "Foreground")
        self._wrote(f"delete Job {name}")

    def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        if kind != "Pod":
            super().delete(kind, namespace, name, uid)
            return
        if name not in self.pods or self.pods[name]["metadata"]["uid"] != uid:
            raise ClusterError(404, "NotFound", name)
        self.mark_deleted(self.pods[name], GRACE_S)
        self._wrote(f"delete Pod {name}")

    def patch_pod_status(self, namespace: str, name: str, patch: Doc) -> None:
        super().patch_pod_status(namespace, name, patch)
        ready = next((each for each in self.pods[name]["status"]["conditions"] if each["type"] == "Ready"), None)
        if patch.get("status", {}).get("phase") == "Failed" and ready is not None:
            ready["status"] = "False"

    def log_tail(self, namespace: str, pod: str, container: str, lines: int) -> str:
        if pod not in self.pods:
            raise ClusterError(404, "NotFound", pod)
        entry = self.pods[pod]["metadata"]["labels"]["diht.dev/stage"]
        if entry == "train-wait":
            return ""
        done, total = self.committed(entry), self.work[entry]
        training = entry == "train"
        shards = None if training else CommittedShards(count=done, seconds=done)
        stage, saved = Stage(entry.partition("-")[0]), self.checkpoint() if training else None
        told: Doc = {"checkpoint": saved, "shards": shards}
        if self.kueue is not None:
            told |= {"eta_seconds": total - done, "time_spent": TimeSpent(starting=1.0, steps=done)}
        return Progress(stage=stage, step="", done=done, total=total, **told).line()

    def committed(self, entry: str) -> int:
        """Seconds of work that no later attempt repeats."""
        return self.done[entry] - self.done[entry] % CHECKPOINT_S if entry == "train" else self.done[entry]

    def checkpoint(self) -> SavedCheckpoint | None:
        """The newest one of the training."""
        step = self.committed("train")
        return SavedCheckpoint(step=step, uri="s3://o/c", time=int(self.now), seconds=step) if step else None

    def _wrote(self, what: str) -> None:
        self.writes.append(what)
        if self.rng.random() < self.dies:
            raise Dead

    def touch(self, document: Doc) -> None:
        """A new version of an object."""
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)

    def mark_deleted(self, document: Doc, grace_s: int) -> None:
        """Ask an object to go."""
        if "deletionTimestamp" not in document["metadata"]:
            document["metadata"]["deletionTimestamp"] = at(self.now + grace_s)
            document["metadata"]["deletionGracePeriodSeconds"] = grace_s
            self.touch(document)

    def pods_of(self, job: Doc) -> list[Doc]:
        """The pods that a Job owns."""
        owned = ((pod, pod["metadata"]["ownerReferences"]) for pod in self.pods.values())
        return [pod for pod, owners in owned if owners and owners[0]["uid"] == job["metadata"]["uid"]]

    def remove_job(self, job: Doc, policy: str) -> None:
        """Delete a Job as a person or the operator would."""
        for pod in self.pods_of(job):
            if policy == "Orphan":
                pod["metadata"]["ownerReferences"] = []
                self.touch(pod)
            else:
                self.mark_deleted(pod, GRACE_S)
        if policy == "Foreground":
            self.mark_deleted(job, 0)
        else:
            del self.jobs[job["metadata"]["name"]]

    def alive(self) -> set[str]:
        """UIDs of the Jobs whose programs run on a node that is up."""
        running = [pod for pod in self.pods.values() if pod["status"]["phase"] == "Running"]
        up = [pod for pod in running if self.down.get(pod["spec"]["nodeName"], 0.0) is None]
        return {pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] for pod in up}

    def running(self) -> int:
        """Pods of the training whose programs run on a node that is up; what waits for another run needs no quota."""
        own = (pod for pod in self.pods.values() if pod["metadata"]["labels"]["diht.dev/stage"] == "train")
        pods = (pod for pod in own if pod["status"]["phase"] == "Running")
        return sum(self.down.get(pod["spec"]["nodeName"], 0.0) is None for pod in pods)

    def pass_time(self, seconds: int) -> None:
        """Play the cluster for a while."""
        self.now += seconds
        self._complete_elsewhere()
        if self.kueue is not None:
            self.kueue.admit()
        for pod in list(self.pods.values()):
            self._kubelet(pod)
        for job in list(self.jobs.values()):
            self._work(job, seconds)
        for job in list(self.jobs.values()):
            self._control(job)

    def _kubelet(self, pod: Doc) -> None:
        since = self.down.get(pod["spec"]["nodeName"]) if pod["spec"]["nodeName"] else None
        if since is not None:
            self._node_is_down(pod, self.now - since)
            return
        phase, metadata = pod["status"]["phase"], pod["metadata"]
        if "deletionTimestamp" in metadata:
            if phase == "Running":
                self.end(pod, 143)
            elif phase == "Pending" or metadata["uid"] in self.counted or not metadata["ownerReferences"]:
                del self.pods[metadata["name"]]
        elif phase == "Pending" and self.rng.random() < 0.8:
            free = (node for node, down in self.down.items() if down is None and node not in self.cordoned)
            up = [node for node in free if not (self.one_each and self._is_full(node))]
            if up and self._has_room_for_its_gang(pod, len(up)):
                pod["spec"]["nodeName"] = self.rng.choice(up)
                self._run(pod)
            elif self.one_each and not pod["status"]["conditions"]:
                pod["status"]["conditions"] = NO_NODE
                self.touch(pod)

    def _has_room_for_its_gang(self, pod: Doc, free: int) -> bool:
        """Whether as many pods as its PodGroup needs have a node or find one."""
        owners = pod["metadata"]["ownerReferences"]
        job = self.jobs.get(owners[0]["name"]) if owners else None
        group = job and job["spec"]["template"]["spec"].get("schedulingGroup")
        if job is None or not group:
            return True
        placed = sum(bool(each["spec"]["nodeName"]) for each in self.pods_of(job))
        gang = self.others["PodGroup"][group["podGroupName"]]["spec"]["schedulingPolicy"]["gang"]
        return placed + free >= gang["minCount"]

    def _is_full(self, node: str) -> bool:
        there = (pod for pod in self.pods.values() if pod["spec"]["nodeName"] == node)
        return any(pod["status"]["phase"] in ("Pending", "Running") for pod in there)

    def _run(self, pod: Doc) -> None:
        pod["status"] = {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(self.now)},
                {"type": "Ready", "status": "True", "lastTransitionTime": at(self.now)},
            ],
            "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": at(self.now)}}}],
        }
        self.touch(pod)

    def _node_is_down(self, pod: Doc, seconds: float) -> None:
        if pod["status"]["phase"] not in ("Running", "Pending"):
            return
        ready = next((each for each in pod["status"]["conditions"] if each["type"] == "Ready"), None)
        if seconds >= NOT_READY_S and ready is not None and ready["status"] == "True":
            ready |= {"status": "False", "lastTransitionTime": at(self.now)}
            self.touch(pod)
        if seconds >= EVICTED_S:
            self.disrupt(pod, "DeletionByTaintManager")
            self.mark_deleted(pod, GRACE_S)

    def disrupt(self, pod: Doc, reason: str) -> None:
        """Give a pod the condition of a disruption."""
        if condition(pod, "DisruptionTarget") is None:
            pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": reason})
            self.touch(pod)

    def end(self, pod: Doc, code: int, *, reason: str = "", message: str = "", cause: str = "x") -> None:  # type: ignore[override]
        """The program of a pod ends; `cause` is the reason that it gives itself."""
        entry = pod["metadata"]["labels"]["diht.dev/stage"]
        if entry == "train-wait" and not code:
            message = Cause(exit_code=0, reason=cause, message="").encoded()
        elif code and entry == "train":
            left = Cause(exit_code=code, reason=cause, message=message or "m", checkpoint=self.checkpoint())
            message = "" if code in (137, 139) else left.encoded()
        state = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "message": message,
            "startedAt": at(self.now - 1),
            "finishedAt": at(self.now),
        }
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "c", "state": {"terminated": state}}],
        }
        self.touch(pod)

    def _work(self, job: Doc, seconds: int) -> None:
        """Programs get on with their work; a gang only as a whole, and from its last checkpoint."""
        pods = self.pods_of(job)
        working = [
            pod for pod in pods if pod["status"]["phase"] == "Running" and self.down[pod["spec"]["nodeName"]] is None
        ]
        entry = job["metadata"]["labels"]["diht.dev/stage"]
        if entry == "train-wait":
            self._wait(working)
            return
        if RESIZES_ANNOTATION in job["metadata"].get("annotations", {}) and self.done[entry] < self.work[entry]:
            working = self._meet(job, pods, working)
            if not working:
                return
        elif entry == "train" and len(working) < job["spec"]["parallelism"] and self.done[entry] < self.work[entry]:
            self.done[entry] = self.committed(entry)
            return
        if not working or (entry == "train" and self._gives_way(job, working)):
            return
        self.done[entry] = min(self.work[entry], self.done[entry] + seconds * (1 if entry == "train" else len(working)))
        for pod in working if self.done[entry] >= self.work[entry] else ():
            if self.rng.random() < 0.7:
                self.end(pod, 0)

    def _meet(self, job: Doc, pods: list[Doc], working: list[Doc]) -> list[Doc]:
        """The pods that train of a gang that resizes: its members, if all are there; else none, and what is not saved
        is lost.
        """
        uid, there = job["metadata"]["uid"], {self._index(pod): pod for pod in working}
        if 0 not in there:
            self.done["train"] = self.committed("train")
            started = any(self._index(pod) == 0 and pod["status"]["phase"] == "Failed" for pod in pods)
            for pod in working if started else ():  # they have lost launcher 0
                self.lost_first += 1
                self.end(pod, 75)
            return []
        decision = decision_in(there[0]["metadata"].get("annotations", {}).get(DECISION_ANNOTATION, ""))
        without = () if decision is None else decision.without
        members = {node for node in range(job["spec"]["completions"]) if node not in without}
        before, together = self.rounds.get(uid, frozenset()), [pod for node, pod in there.items() if node in members]
        all_live = before <= {pod["metadata"]["uid"] for pod in working}
        if len(together) < len(members):
            self.done["train"] = self.committed("train")
            return []
        new = frozenset(pod["metadata"]["uid"] for pod in together)
        if new != before:
            self.rounds[uid] = new
            self.sizes.append((uid, len(new)))
            if not all_live:
                self.done["train"] = self.committed("train")
        return together

    def _other_works(self) -> bool:
        return self.other is not None and any(since <= self.now < until for since, until in self.other.works)

    def _wait(self, pods: list[Doc]) -> None:
        """Programs that wait for the other run end once that has ended."""
        if not self._other_works():
            for pod in pods:
                self.end(pod, 0, cause=COMMITTED if self.done["train"] >= self.work["train"] else "Completed")

    def _gives_way(self, job: Doc, pods: list[Doc]) -> bool:
        """Whether a gang ends before it has begun, since the other run's works."""
        uid = job["metadata"]["uid"]
        if self.done["train"] >= self.work["train"] or uid in self.leased:
            return False
        if not self._other_works():
            self.leased.add(uid)
            return False
        self.gave_way += 1
        self.end(pods[0], 75, cause=ComputedElsewhere.__name__)
        return True

    def _complete_elsewhere(self) -> None:
        """The other run completes the training, unless this one's gang has it."""
        if self.other is None or not self.other.completes or self.now < self.other.works[-1][1]:
            return
        if not self.leased & {job["metadata"]["uid"] for job in self.jobs.values()}:
            self.done["train"] = self.work["train"]

    def _control(self, job: Doc) -> None:
        """The Job controller, Kueue and the TTL controller."""
        pods, metadata = self.pods_of(job), job["metadata"]
        if "deletionTimestamp" in metadata:
            for pod in pods:
                self.mark_deleted(pod, GRACE_S)
            self.counted |= {pod["metadata"]["uid"] for pod in pods}
            if not pods:
                del self.jobs[metadata["name"]]
        elif job["spec"]["suspend"]:
            if self.rng.random() < 0.3:
                job["spec"]["suspend"], job["status"]["startTime"] = False, at(self.now)
                self.touch(job)
        elif condition(job, "Complete") or condition(job, "Failed"):
            ended = job["status"]["ended"]
            if self.now > ended + JOB_TTL_S:
                self.counted |= {pod["metadata"]["uid"] for pod in pods}
                self.remove_job(job, "Background")
        elif condition(job, "SuccessCriteriaMet") or condition(job, "FailureTarget"):
            self._finish(job, pods)
        else:
            self._follow(job, pods)

    def _finish(self, job: Doc, pods: list[Doc]) -> None:
        left = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        for pod in left:
            self.mark_deleted(pod, GRACE_S)
        self.counted |= {pod["metadata"]["uid"] for pod in pods if pod not in left}
        if not left:
            self._set(job, "Complete" if condition(job, "SuccessCriteriaMet") else "Failed")

    def _follow(self, job: Doc, pods: list[Doc]) -> None:
        for pod in pods:
            if pod["status"]["phase"] == "Failed" and pod["metadata"]["uid"] not in self.counted:
                self.counted.add(pod["metadata"]["uid"])
                self._count_failure(job, pod)
                if condition(job, "FailureTarget"):
                    return
        succeeded = {self._index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        rules = job["spec"].get("successPolicy", {}).get("rules", [])
        met = any("succeededCount" in rule and len(succeeded) >= rule["succeededCount"] for rule in rules)
        met = met or any(rule.get("succeededIndexes") == "0" and 0 in succeeded for rule in rules)
        if met or len(succeeded) == job["spec"]["completions"]:
            self._set(job, "SuccessCriteriaMet")
            return
        living = {self._index(pod) for pod in pods if pod["status"]["phase"] in ("Pending", "Running")}
        for index in set(range(job["spec"]["completions"])) - succeeded - living:
            self._make_pod(job, index)

    def _count_failure(self, job: Doc, pod: Doc) -> None:
        state = pod["status"]["containerStatuses"][0]["state"] if pod["status"]["containerStatuses"] else {}
        code = state.get("terminated", {}).get("exitCode")  # none where its node is lost
        name, uid = pod["metadata"]["name"], job["metadata"]["uid"]
        disruption = job["spec"]["podFailurePolicy"]["rules"][1]["action"]
        own = condition(pod, "DisruptionTarget") is None
        any_code = code and own and len(job["spec"]["podFailurePolicy"]["rules"]) > 2
        if code in NEVER_RETRIED or any_code:
            self._set(job, "FailureTarget", f"Container c for pod n/{name} failed with exit code {code}")
        elif own:
            self.failures[uid] += 1
            if self.failures[uid] > job["spec"]["backoffLimit"]:
                self._set(job, "FailureTarget", "Job has reached the specified backoff limit")
        elif disruption == "FailJob":
            self._set(job, "FailureTarget", f"Pod n/{name} has condition DisruptionTarget matching FailJob rule")

    def _set(self, job: Doc, kind: str, message: str = "") -> None:
        found = {"type": kind, "status": "True", "reason": "x", "message": message}
        found["lastTransitionTime"] = at(self.now)
        job["status"].setdefault("conditions", []).append(found)
        job["status"]["ended"] = self.now
        if kind == "Complete":
            job["status"]["completionTime"] = at(self.now)
        self.touch(job)

    @staticmethod
    def _index(pod: Doc) -> int:
        return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])

    def _make_pod(self, job: Doc, index: int) -> None:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        self.version += 1
        labels = {
            **job["metadata"]["labels"],
            "batch.kubernetes.io/job-completion-index": str(index),
            "batch.kubernetes.io/controller-uid": uid,
        }
        self.pods[f"{name}-{index}-{self.version}"] = {
            "metadata": {
                "namespace": "n",
                "name": f"{name}-{index}-{self.version}",
                "uid": f"pod-{self.version}",
                "resourceVersion": str(self.version),
                "creationTimestamp": at(self.now),
                "labels": labels,
                "ownerReferences": [{"kind": "Job", "name": name, "uid": uid, "controller": True}],
            },
            "spec": {"nodeName": ""},
            "status": {"phase": "Pending", "conditions": [], "containerStatuses": []},
        }
