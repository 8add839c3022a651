"""Live reads of pods and events from the API server, where a cache that is late would lead to a wrong decision.

The watches of Jobs and pods are not in step, and one may stall: a Job has ended by a pod whose end was not reported
yet, or is gone while its pods were not reported at all. An operator that has just started never saw a drained pod; its
events still name the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.controller.cache.informer import Informer
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.known_objects import KnownObjects
from diht_k8s.controller.observe import DISRUPTED, DRAINED, ObservedAttempt
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.job_summary import JobSummary
from diht_k8s.kube.object_fields import RUN_LABEL
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from diht_k8s.pipeline.attempts import AttemptState

DISRUPTION_OF: Final = {
    "Preempted": "PreemptionByScheduler",
    "TaintManagerEviction": "DeletionByTaintManager",
    "Evicted": "TerminationByKubelet",
}
"""Events of a pod by which its disruption is known afterwards."""
DRAIN: Final = "EvictionByEvictionAPI"
"""The disruption that leaves no event."""


class LiveReads:
    """Reads pods and events past the cache."""

    def __init__(self, cluster: Cluster, pods: Informer[PodSummary]) -> None:
        """Make one; the pods that it reads go into the cache `pods` too."""
        self._cluster, self._pods = cluster, pods

    def uncached_pod(self, cached: CachedRun, known: KnownObjects) -> str:
        """A pod of an earlier attempt that runs though its watch has not reported it yet; empty if there is none."""
        if not known.former_jobs and not known.has_unrecorded_job:
            return ""
        seen = {pod.uid for pod in self._pods.of(*cached.key)}
        pods = map(pod_summary, self._listed(cached))
        found = (pod for pod in pods if isinstance(pod, PodSummary) and not pod.ended and pod.uid not in seen)
        return next((pod.name for pod in found if pod.is_known_by(cached.uid, known.former_jobs)), "")

    def read_ended_pods(self, cached: CachedRun, known: KnownObjects, observed: Sequence[ObservedAttempt]) -> bool:
        """Read the pods of each attempt that ended by one whose end is not to be seen; once for each attempt.

        Returns:
            whether something was read, so that the attempts have to be observed again.

        Raises:
            ClusterError: the API server does not answer; what the pods tell has to wait for it.
        """
        jobs = [each.job for each in observed if each.job is not None and _is_unclear(each)]
        jobs = [job for job in jobs if job.uid not in known.read_jobs]
        if not jobs:
            return False
        for document in self._listed(cached):
            self._pods.put(document)
        seen = {pod.name for pod in self._pods.of(*cached.key) if pod.disruption}
        for job in jobs:
            drained = DRAINED.search(job.message)
            if drained is not None and drained[1] not in seen:
                known.disrupted |= self._disrupted(cached, job, drained[1])
            known.read_jobs.add(job.uid)
        return True

    def _listed(self, cached: CachedRun) -> Sequence[Mapping[str, Any]]:
        return self._cluster.items("Pod", cached.namespace, f"{RUN_LABEL}={cached.name}")

    def _disrupted(self, cached: CachedRun, job: JobSummary, name: str) -> dict[str, PodSummary]:
        """A pod that is gone, as far as its events tell; empty if they do not name its node."""
        selector = f"involvedObject.kind=Pod,involvedObject.name={name}"
        events = list(self._cluster.events(cached.namespace, selector))
        sources = [event.get("source") or {} for event in events]
        hosts = [source.get("host") for source in sources if source.get("component") == "kubelet"]
        node = next((host for host in hosts if host), "")
        kinds = (DISRUPTION_OF.get(event.get("reason", "")) for event in events)
        kind = next((kind for kind in kinds if kind is not None), DRAIN)
        gone = PodSummary(
            cached.namespace,
            name,
            "",
            "0",
            cached.name,
            job.stage,
            job.attempt,
            job.uid,
            0,
            "Failed",
            0.0,
            node=node,
            disruption=kind,
        )
        return {name: gone} if node else {}


def _is_unclear(observed: ObservedAttempt) -> bool:
    """Whether an attempt ended by a pod of which nothing is known but that it is missing, or that it ran.

    In a gang the first pod tells most, elsewhere any does.
    """
    attempt = observed.attempt
    if attempt.state is AttemptState.SUCCEEDED:
        done = {pod.index for pod in observed.pods if pod.phase == "Succeeded"}
        return 0 not in done if attempt.is_gang else not done
    return attempt.state is AttemptState.FAILED and attempt.reason in ("PodRemoved", DISRUPTED)
