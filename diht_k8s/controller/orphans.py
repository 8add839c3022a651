"""Pods that have lost their Job (`kubectl delete job --cascade=orphan`): found by the Job's UID, and deleted.

No garbage collector removes them, not even when their run is deleted, and a second gang must not start beside them. A
pod counts as an orphan only if it names the UID of a Job that was an attempt of the run, or of the run itself (an
operator may have died before it noted its new Job's UID): the names in our labels could be set by chance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from diht_k8s.controller.events import RunEvent
from diht_k8s.kube.client import Cluster, ClusterError
from diht_k8s.kube.summaries import PodSummary


def orphans(
    pods: Iterable[PodSummary], run_uid: str, former: Collection[str], jobs: Collection[str]
) -> list[PodSummary]:
    """Pods without an owner that are still there.

    Args:
        pods: pods with the run's label.
        run_uid: UID of the run.
        former: UIDs of Jobs that are or were attempts of the run.
        jobs: UIDs of those that exist.
    """
    return [
        pod
        for pod in pods
        if not pod.job_name and pod.is_known_by(run_uid, former) and pod.job_uid not in jobs and pod.deleted_at is None
    ]


def delete_orphans(cluster: Cluster, pods: Iterable[PodSummary]) -> list[RunEvent]:
    """Delete orphans; their programs get the usual grace. Returns the events to record.

    Raises:
        ClusterError: the API server does not answer, or the operator may not delete pods.
    """
    found = []
    for pod in pods:
        try:
            cluster.delete_pod(pod.namespace, pod.name, pod.uid)
        except ClusterError as error:
            if not error.is_gone and not error.is_conflict:
                raise
            continue
        message = f"{pod.stage}: pod {pod.name} has lost its Job and is deleted"
        found.append(RunEvent("OrphanDeleted", message, warning=True))
    return found
