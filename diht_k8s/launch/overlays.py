"""TorchX overlays for what a Role has no field for: those of a stage, and those of an application in its roles. Pure.

Stock TorchX reads `V1Pod`; the scheduler of this project also reads `V1Container` and `V1Job`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from torchx.specs import AppDef, Role
from torchx.specs.overlays import JOIN, PUT, get_overlay, set_overlay

from diht_k8s.api.base import credential_variables
from diht_k8s.api.pod_security import escalates
from diht_k8s.api.pods import NODE_VARIABLE, QUEUE_LABEL, QUEUE_PRIORITY_LABEL, Pods, topology_annotations
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import SHARED_STEP
from diht_k8s.launch.pod_template import SHARED_MEMORY

NAMESPACE: Final = "kubernetes"
KINDS: Final = ("V1Pod", "V1Container", "V1Job")
POD_FIELDS = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "priorityClassName",
    "serviceAccountName",
    "runtimeClassName",
    "terminationGracePeriodSeconds",
    "hostNetwork",
    "schedulerName",
)
MIN_PARALLELISM: Final = "kueue.x-k8s.io/job-min-parallelism"
EQUAL_COMPLETIONS: Final = "kueue.x-k8s.io/job-completions-equal-parallelism"
"""Annotations by which Kueue may admit a Job with fewer pods."""
FAILURES_PER_WORKER: Final = 3
"""Pods of a stage of several workers that may fail, for each worker, before its Job does (our choice).

A limit for each index would hang the deletion of the namespace (`backoffLimitPerIndex`)."""


def stage_overlays(
    run: DihtRun, stage: Stage, pods: Pods, replicas: int, *, step: str = ""
) -> dict[str, dict[str, Any]]:
    """The overlays of the role of a stage or of one of its steps, by kind; empty ones are left out."""
    overlays = {
        "V1Pod": _pod(pods, replicas),
        "V1Container": _container(run, stage, pods),
        "V1Job": _job(stage, pods, replicas, step),
    }
    return {kind: overlay for kind, overlay in overlays.items() if overlay}


def _pod(pods: Pods, replicas: int) -> dict[str, Any]:
    given = pods.model_dump(by_alias=True, exclude_defaults=True)
    spec = {name: given[name] for name in POD_FIELDS if name in given}
    if pods.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pods.image_pull_secrets]
    if pods.host_network:
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"  # else a pod on its node's network finds no Service
    if pods.pod_security_context is not None:
        spec["securityContext"] = pods.pod_security_context
    memory = [{"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": pods.shm_size}}]
    if volumes := [*(memory if pods.shm_size else []), *pods.volumes]:
        spec[JOIN("volumes", on="name")] = volumes
    metadata = {name: given[name] for name in ("labels", "annotations") if name in given}
    if topology := topology_annotations(pods.topology, replicas):
        metadata["annotations"] = {**metadata.get("annotations", {}), **topology}
    return {key: value for key, value in (("metadata", metadata), ("spec", spec)) if value}


def _container(run: DihtRun, stage: Stage, pods: Pods) -> dict[str, Any]:
    container: dict[str, Any] = {}
    if pods.image_pull_policy:
        container["imagePullPolicy"] = pods.image_pull_policy
    if pods.resources:  # a Role counts in whole CPUs and MB
        quantities = {name: str(value) for name, value in pods.resources.items()}
        container["resources"] = {"limits": quantities, "requests": dict(quantities)}
    if pods.volume_mounts:
        container["volumeMounts"] = pods.volume_mounts
    if pods.security_context is not None:
        container["securityContext"] = _security(pods.security_context)
    references = [
        {"name": variable.name, **({"valueFrom": variable.value_from} if variable.value_from else {})}
        for variable in pods.env
        if variable.value is None
    ]
    node = [{"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    if env := [*_credentials(run), *(node if stage is Stage.TRAIN else []), *references]:
        container["env"] = env
    return container


def _security(context: dict[str, Any]) -> dict[str, Any]:
    found = dict(context)
    if escalates(context):
        found.setdefault("allowPrivilegeEscalation", True)
    if "drop" in (capabilities := found.get("capabilities", {})):  # in place of ALL, not beside it
        found["capabilities"] = {key: value for key, value in capabilities.items() if key != "drop"}
        found["capabilities"][PUT("drop")] = capabilities["drop"]
    return found


def _credentials(run: DihtRun) -> list[dict[str, Any]]:
    """The credentials of storage rules, in the variables that `Storage` reads."""
    return [
        {
            "name": variable,
            "valueFrom": {"secretKeyRef": {"name": rule.secret_ref.name, "key": key}},
        }
        for index, rule in enumerate(run.spec.storage)
        if rule.secret_ref
        for key, variable in credential_variables(rule.prefix, index).items()
    ]


def _job(stage: Stage, pods: Pods, replicas: int, step: str) -> dict[str, Any]:
    job: dict[str, Any] = {}
    if pods.queue_name:
        job["metadata"] = {"labels": {QUEUE_LABEL: pods.queue_name}}
        if pods.queue_priority_class:
            job["metadata"]["labels"][QUEUE_PRIORITY_LABEL] = pods.queue_priority_class
        if stage is not Stage.TRAIN and pods.min_workers is not None and pods.min_workers < replicas:
            job["metadata"]["annotations"] = {MIN_PARALLELISM: str(pods.min_workers), EQUAL_COMPLETIONS: "true"}
    if replicas > 1:
        job["spec"] = _of_gang() if stage is Stage.TRAIN else _of_workers(stage, replicas, step)
    return job


def _of_gang() -> dict[str, Any]:
    """Node 0 commits: once it has succeeded, the run needs no other."""
    return {"successPolicy": {"rules": [{"succeededIndexes": "0"}]}}


def _of_workers(stage: Stage, replicas: int, step: str) -> dict[str, Any]:
    """Workers share shards by claims: a failed one is replaced, one on a dead node is not missed.

    They succeed only once the stage is committed, and the dead node's never ends. Without a step, label is the work of
    worker 0 alone: the others succeed at once, which tells nothing.
    """
    spec: dict[str, Any] = {"backoffLimit": FAILURES_PER_WORKER * replicas}
    if stage is not Stage.LABEL or step == SHARED_STEP:
        spec["successPolicy"] = {"rules": [{"succeededCount": 1}]}
    return spec


def with_overlays(app: AppDef) -> AppDef:
    """A copy of the application whose roles carry all overlays that apply to them.

    TorchX's command puts `--metadata kubernetes=FILE` into the application, which stock schedulers ignore.
    """
    return replace(app, roles=[_role_with_overlays(app, role) for role in app.roles])


def _role_with_overlays(app: AppDef, role: Role) -> Role:
    copy = replace(role, metadata={key: value for key, value in role.metadata.items() if key != NAMESPACE})
    for kind in KINDS:
        for source in (app, role):
            if overlay := _overlay(source, kind):
                set_overlay(copy, NAMESPACE, kind, overlay)
    return copy


def _overlay(source: AppDef | Role, kind: str) -> dict[str, Any]:
    """The overlay of a kind; one without a kind applies to the pod."""
    return get_overlay(source, NAMESPACE, kind, flat_fallback=kind == "V1Pod")
