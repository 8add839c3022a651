"""Objects of a run created on the cluster; Jobs, expired runs and orphans deleted. Each may be repeated at any point.

Orphans are pods that have lost their Job (`kubectl delete job --cascade=orphan`). No garbage collector removes them,
not even when their run is deleted, and a second gang must not start beside them. A pod counts as an orphan only if it
names the UID of a Job that was an attempt of the run, or of the run itself (an operator may have died before it noted
its new Job's UID): the names in our labels could be set by chance.

A refusal of the API server that a person can correct names the object and has the server's own words, which name the
field. What the document says is wrong in every cluster: it waits for another document. What a cluster forbids may be
allowed a moment later.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from diht_k8s.api.reasons import Reason
from diht_k8s.api.schema.crd import KIND
from diht_k8s.controller.cache.runs import CachedRun, Key
from diht_k8s.controller.events import RunEvent
from diht_k8s.controller.observe import ObservedAttempt, RunProblem
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.pod_summary import PodSummary

KEPT_ATTEMPTS = 2
"""Number of newest attempts of a stage whose Jobs stay, with their pods' logs."""


class StillTerminating(Exception):  # noqa: N818 (a state, not a fault)
    """An object of the same name is being deleted."""


class NameConflict(Exception):  # noqa: N818
    """An object of the same name has another owner."""


def create_or_get(cluster: Cluster, cached: CachedRun, item: dict[str, Any]) -> dict[str, Any]:
    """Create an object, or return the one of the same name if it is ours."""
    kind, name = item["kind"], item["metadata"]["name"]
    try:
        return cluster.create(item)
    except ClusterError as error:
        if error.reason != "AlreadyExists":
            raise
    there = cluster.get(kind, cached.namespace, name)
    owner = next((each for each in there["metadata"].get("ownerReferences") or () if each.get("controller")), {})
    if owner.get("uid") == cached.uid:
        if "deletionTimestamp" in there["metadata"]:
            raise StillTerminating(f"waits until the old {kind} {name} is gone")
        return there
    if owner.get("kind") == KIND and owner.get("name") == cached.name:
        raise StillTerminating(f"waits until the {kind} {name} of a deleted run of the same name is gone")
    raise NameConflict(f"a {kind} named {name} is there already and is not this run's: delete or rename it, or the run")


def delete_run(cluster: Cluster, key: Key, uid: str, version: str) -> None:
    """Delete a run unless it has changed since (a person may have asked for a retry)."""
    try:
        cluster.delete_run(*key, uid, version)
    except ClusterError as error:
        if not error.is_not_found and not error.is_conflict:
            raise


def delete_old_jobs(cluster: Cluster, cached: CachedRun, observed: list[ObservedAttempt]) -> None:
    """Delete the Jobs of attempts that ended long ago, and their Services."""
    newest: dict[str, int] = {}
    for each in observed:
        newest[each.entry] = max(newest.get(each.entry, 0), each.attempt.number)
    for each in observed:
        old = each.attempt.number <= newest[each.entry] - KEPT_ATTEMPTS
        if old and each.job is not None and each.job.over and not each.job.deleted:
            delete_job(cluster, cached, each.job.name, each.job.uid)
            with contextlib.suppress(ClusterError):
                cluster.delete("Service", cached.namespace, each.job.name)
            if each.job.pod_group:
                with contextlib.suppress(ClusterError):
                    cluster.delete("PodGroup", cached.namespace, each.job.pod_group)


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
            cluster.delete("Pod", pod.namespace, pod.name, pod.uid)
        except ClusterError as error:
            if not error.is_not_found and not error.is_conflict:
                raise
            continue
        message = f"{pod.stage}: pod {pod.name} has lost its Job and is deleted"
        found.append(RunEvent("OrphanDeleted", message, warning=True))
    return found


def delete_job(cluster: Cluster, cached: CachedRun, name: str, uid: str) -> None:
    """Delete a Job with its pods, unless it is gone already or is another one of the same name by now."""
    try:
        cluster.delete_job(cached.namespace, name, uid)
    except ClusterError as error:
        if not error.is_not_found and not error.is_conflict:
            raise


_ADMISSION: Final = re.compile(r"denied (the )?request|failed (calling|to call) webhook|does not support dry run")
"""Words of webhooks and of admission policies, which answer with any status."""
_MALFORMED: Final = (400, 413, 415, 422)


def name_of(item: Mapping[str, Any]) -> str:
    """An object for a sentence: `Job r-train-1`."""
    return f"{item['kind']} {item['metadata']['name']}"


def refusal(error: ClusterError, subject: str) -> RunProblem | None:
    """What keeps a run from going on; None if its namespace is on its way out.

    Args:
        error: the API server's refusal to create an object.
        subject: the object, as `name_of` names it.

    Raises:
        ClusterError: the refusal says nothing that a person could act on.
    """
    words, says = error.message, f"the API server refuses {subject}: {error.message}"
    if error.is_terminating:
        return None
    if "exceeded quota" in words:
        return RunProblem(Reason.QUOTA_EXCEEDED, says)
    if error.status == 403 and " cannot " in words:
        return RunProblem(Reason.PERMISSION_DENIED, f"the operator may not do that: {words}: check its Role")
    if error.status == 403 or _ADMISSION.search(words):
        return RunProblem(Reason.POD_REFUSED, says)
    if error.is_not_found:
        return RunProblem(Reason.REFERENCE_MISSING, says)
    if error.status in _MALFORMED:
        return RunProblem(Reason.INVALID_SPEC, f"{says}: change the run document", until_changed=True)
    raise error
