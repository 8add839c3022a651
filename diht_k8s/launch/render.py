"""The Kubernetes objects of a TorchX AppDef: an Indexed Job for each role, and a headless Service. Pure.

The scheduler plugin and the controller share it. It uses batch/v1 and v1 only, so that every cluster can run it; Kueue,
if installed, queues the Jobs by their label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchx.specs import AppDef, RetryPolicy, Role
from torchx.specs.overlays import apply_overlay, get_overlay

from diht_k8s.api.errors import NEVER_RETRIED, UserError
from diht_k8s.api.pods import QUEUE_LABEL
from diht_k8s.launch.pod_template import (
    MAX_NAME,
    PodConfig,
    RoleHosts,
    job_names,
    label_value,
    pod_template,
    raw,
    slug,
    substituted,
    uses_rank0,
)

LABEL_APP: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGER: Final = "app.kubernetes.io/managed-by"
LABEL_ROLE: Final = "torchx.pytorch.org/role-name"
LABEL_ROLE_INDEX: Final = "torchx.pytorch.org/role-index"
MANAGER: Final = "torchx.pytorch.org"


@dataclass(frozen=True, kw_only=True)
class JobConfig(PodConfig):
    """Settings of the objects that an AppDef has no field for."""

    namespace: str | None = None
    """namespace of all objects; None leaves it to the caller."""
    queue: str | None = None
    """Kueue's LocalQueue."""
    ttl_seconds_after_finished: int | None = None
    """seconds after which Kubernetes removes a finished Job; None keeps it."""
    active_deadline_seconds: int | None = None
    """seconds after which Kubernetes ends the Job; None sets no limit."""
    end_on_disruption: bool | None = None
    """whether a drained or preempted pod ends the Job (the controller then starts the next attempt) or is replaced.
    None: it ends a gang without retries, whose other pods could only wait for it, and is replaced in other Jobs."""


def render(
    app: AppDef,
    config: JobConfig,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    owner: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The objects of an application, Jobs first.

    Args:
        app: the application; it is not changed.
        config: settings that it has no field for.
        name: name of the Service, and of the Job of a single role; prefix of the names of several roles' Jobs.
        labels: further labels of all objects and pods; they override the default ones.
        owner: owner reference of all objects.

    Returns:
        Plain JSON objects. There is a Service only if replicas communicate: a role of several replicas opens a port or
        uses the address of replica 0, or there are several roles.

    Raises:
        UserError: a name is too long, a role has no image, a mount or an overlay is wrong.
    """
    if not app.roles:
        raise UserError(f"application {app.name} has no roles: add one")
    roles = [substituted(role, name) for role in app.roles]
    jobs = job_names(name, [role.name for role in roles])
    _check_lengths(jobs, roles)
    service = name if _replicas_communicate(roles) else None
    rank0_host = f"{jobs[0]}-0.{service}" if service else "localhost"
    common = {LABEL_APP: label_value(app.name), LABEL_INSTANCE: name, LABEL_MANAGER: MANAGER, **(labels or {})}
    objects = []
    for index, (job, role) in enumerate(zip(jobs, roles, strict=True)):
        own = {
            LABEL_COMPONENT: label_value(role.name),
            LABEL_ROLE: label_value(role.name),
            LABEL_ROLE_INDEX: str(index),
        }
        template = pod_template(role, config, RoleHosts(job, service, rank0_host, index == 0), common | own)
        objects.append(_job(job, role, config, template, common | own))
    if service:
        objects.append(_service(service, common))
    for item in objects:
        _assign(item, config.namespace, owner)
    return objects


def is_gang(role: Role) -> bool:
    """Whether the replicas of a role start and end together."""
    return role.num_replicas > 1 and role.retry_policy is not RetryPolicy.REPLICA


def _job(
    name: str, role: Role, config: JobConfig, template: dict[str, Any], labels: Mapping[str, str]
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": role.num_replicas,
        "parallelism": role.num_replicas,
        # If one replica of a gang fails, all fail: one retry costs as many failures as the gang has replicas.
        "backoffLimit": role.max_retries * role.num_replicas,
        "podFailurePolicy": {"rules": _failure_rules(role, config, template)},
        "template": template,
    }
    if config.ttl_seconds_after_finished is not None:
        spec["ttlSecondsAfterFinished"] = config.ttl_seconds_after_finished
    if config.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = config.active_deadline_seconds
    queue = {QUEUE_LABEL: config.queue} if config.queue else {}
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {**labels}},
        "spec": spec,
    }
    apply_overlay(job, raw(get_overlay(role, "kubernetes", "V1Job", flat_fallback=False)))
    job["metadata"]["labels"] |= queue
    return job


def _failure_rules(role: Role, config: JobConfig, template: dict[str, Any]) -> list[dict[str, Any]]:
    """A user error ends the Job at once; a disruption does not count as a failure of the program."""
    end = config.end_on_disruption
    if end is None:
        end = is_gang(role) and role.max_retries == 0
    return [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": slug(role.name),
                "operator": "In",
                "values": [int(code) for code in NEVER_RETRIED],
            },
        },
        {
            "action": "FailJob" if end else "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]


def _service(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """A headless Service that names each pod as soon as it has an address: ranks connect before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {**labels}},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {LABEL_INSTANCE: name}},
    }


def _assign(item: dict[str, Any], namespace: str | None, owner: Mapping[str, Any] | None) -> None:
    metadata = item["metadata"]
    if namespace is not None:
        metadata["namespace"] = namespace
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]


def _replicas_communicate(roles: list[Role]) -> bool:
    if len(roles) > 1:
        return True
    (role,) = roles
    return role.num_replicas > 1 and (bool(role.port_map) or uses_rank0(role))


def _check_lengths(jobs: list[str], roles: list[Role]) -> None:
    for job, role in zip(jobs, roles, strict=True):
        host = f"{job}-{role.num_replicas - 1}"
        if len(host) > MAX_NAME:
            raise UserError(
                f"host name {host} has {len(host)} characters, Kubernetes allows {MAX_NAME}: use a shorter name"
            )
