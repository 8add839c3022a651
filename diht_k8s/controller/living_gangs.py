"""What the operator writes to the pods of a gang that goes on as nodes go and come. Each write may be repeated at any
point.

Pod 0 gets the decision as an annotation. A pod whose node is lost is said to have failed: its kubelet cannot say so,
and the Job controller replaces no pod before (`podReplacementPolicy: Failed`). Both are writes to `pods/status`, which
changes no spec.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Final

from diht_k8s.api.base import timestamp
from diht_k8s.api.gangs import (
    DECISION_ANNOTATION,
    DECISION_FILE,
    DECISION_FOLDER,
    DECISION_VARIABLE,
    GangDecision,
)
from diht_k8s.controller.observe import DISRUPTED, LIVING, ObservedAttempt
from diht_k8s.kube.client import Cluster
from diht_k8s.kube.errors import ClusterError
from diht_k8s.kube.object_fields import RESIZES_ANNOTATION
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.pipeline.plan import Resize

MOST_REJECTED: Final = 100
"""Pods that nodes may reject, as a kubelet does whose devices are not there yet, before the Job fails (our choice)."""
VOLUME = "gang"
NODE_LOST = "NodeLost"


def resizing(job: dict[str, Any]) -> None:
    """Change a Job so that its gang can go on as nodes go and come: pods see the annotation of the decision as a file.

    A program that ends by itself fails the Job, whatever its code; a pod whose program never ran is replaced.
    """
    job["metadata"].setdefault("annotations", {})[RESIZES_ANNOTATION] = "true"
    rules, spec = job["spec"]["podFailurePolicy"]["rules"], job["spec"]["template"]["spec"]
    name = rules[0]["onExitCodes"]["containerName"]
    rules.append({"action": "FailJob", "onExitCodes": {"containerName": name, "operator": "NotIn", "values": [0]}})
    job["spec"]["backoffLimit"] = MOST_REJECTED
    field = {"fieldPath": f"metadata.annotations['{DECISION_ANNOTATION}']"}
    spec["volumes"].append({"name": VOLUME, "downwardAPI": {"items": [{"path": DECISION_FILE, "fieldRef": field}]}})
    container = spec["containers"][0]
    container["env"].append({"name": DECISION_VARIABLE, "value": f"{DECISION_FOLDER}/{DECISION_FILE}"})
    container["volumeMounts"].append({"name": VOLUME, "mountPath": DECISION_FOLDER, "readOnly": True})


def tell_gang(cluster: Cluster, observed: Iterable[ObservedAttempt], resize: Resize, now: float) -> None:
    """Write a decision to pod 0 of its gang, if it is still there.

    Raises:
        ClusterError: the API server does not answer, or the operator may not write it.
    """
    decision = GangDecision(without=resize.without, at=now).model_dump_json()
    for each in observed:
        if each.job is None or each.job.name != resize.name:
            continue
        for pod in each.pods:
            if pod.index == 0 and not pod.ended and pod.deleted_at is None:
                _write(cluster, pod, {"metadata": {"annotations": {DECISION_ANNOTATION: decision}}})


def pods_to_replace(observed: Iterable[ObservedAttempt]) -> list[PodSummary]:
    """The lost pods of gangs that go on without them: none of one that has lost its first pod, and so has failed."""
    return [
        pod
        for each in observed
        if each.job is not None and each.job.resizes and each.attempt.state in LIVING and not each.attempt.ending
        for pod in each.pods
        if pod.name in each.lost
    ]


def replace_pods(cluster: Cluster, pods: Iterable[PodSummary], now: float) -> None:
    """Say that pods have failed by the loss of their node, and delete them, so that their kubelet ends them if it comes
    back.

    Raises:
        ClusterError: the API server does not answer, or the operator may not write it.
    """
    for pod in pods:
        condition = {"type": DISRUPTED, "status": "True", "reason": pod.disruption or NODE_LOST}
        lost = f"node {pod.node} does not answer"
        times = {"lastTransitionTime": timestamp(now)}
        status = {"phase": "Failed", "reason": NODE_LOST, "message": lost, "conditions": [{**condition, **times}]}
        _write(cluster, pod, {"status": status})
        if pod.deleted_at is None:
            with contextlib.suppress(ClusterError):
                cluster.delete("Pod", pod.namespace, pod.name, pod.uid)


def _write(cluster: Cluster, pod: PodSummary, patch: dict[str, Any]) -> None:
    patch = {**patch, "metadata": {**patch.get("metadata", {}), "uid": pod.uid}}
    try:
        cluster.patch_pod_status(pod.namespace, pod.name, patch)
    except ClusterError as error:
        if not error.is_not_found and not error.is_conflict:
            raise
