"""`spec.pods`: the curated part of a pod that a run may set; each stage's own `pods` is merged over it."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from diht_k8s.api.base import DNS_NAME, IMAGE, LABEL_VALUE, Keyed, Model, ObjectName, Text, is_object, without_nulls
from diht_k8s.api.kubernetes_types.objects import ObjectType, Quantity, Size

Object = dict[str, Any]
Affinity = Annotated[Object, ObjectType("Affinity")]
PodSecurityContext = Annotated[Object, ObjectType("PodSecurityContext")]
SecurityContext = Annotated[Object, ObjectType("SecurityContext")]
Toleration = Annotated[Object, ObjectType("Toleration")]
ValueSource = Annotated[Object, ObjectType("EnvVarSource")]
Volume = Annotated[Object, ObjectType("Volume")]
VolumeMount = Annotated[Object, ObjectType("VolumeMount")]

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
"""Label by which Kueue finds a Job's queue."""
QUEUE_PRIORITY_LABEL: Final = "kueue.x-k8s.io/priority-class"
"""Label by which Kueue finds a Job's WorkloadPriorityClass."""
RENDEZVOUS_PORT: Final = 29500
"""TCP port on which the ranks of a gang find each other."""
NODE_VARIABLE: Final = "DIHT_NODE_NAME"
"""In the environment of a training's pods: the node's name, which the host name of a pod does not tell."""
OWNER_VARIABLE: Final = "DIHT_OWNER"
"""In the environment: whose claims and lease a program's are. On a cluster the run's UID."""
RUN_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Such a UID."""
CONTROL_VARIABLE: Final = "DIHT_CONTROL_TOKEN"
"""In the environment of an attempt that restarts in place: what a launcher must know to use the control store."""
HOST_PORTS: Final = range(20000, 29000)
"""Its ports on the nodes' network: below NodePorts (30000) and ephemeral ports (32768)."""
ONE_TOPOLOGY: Final = "give one of required, preferred and unconstrained"
WHOLE_SLICE: Final = "give sliceRequired and sliceSize together"
ROOT_NEEDS_CONSENT: Final = "runAsUser 0 is root, which needs runAsNonRoot: false beside it"
STANDARD_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")
OWN_VOLUMES: Final = ("dshm", "tmp")
"""Volumes that every pod has: at /dev/shm and at /tmp."""


Labels = Annotated[
    dict[str, Annotated[str, StringConstraints(pattern=LABEL_VALUE, max_length=63)]],
    Field(max_length=64),
    BeforeValidator(without_nulls),
]
Annotations = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=4096)]],
    Field(max_length=64),
    BeforeValidator(without_nulls),
]


def _requestable(given: dict[str, str | int]) -> dict[str, str | int]:
    for name in given:
        if name not in STANDARD_RESOURCES and not name.startswith("hugepages-") and "/" not in name:
            known = ", ".join(STANDARD_RESOURCES)
            raise ValueError(
                f"{name[:80]} is no resource: write {known}, hugepages-SIZE or DOMAIN/NAME, such as nvidia.com/gpu"
            )
    return given


Resources = Annotated[
    dict[str, Quantity], Field(max_length=64), BeforeValidator(without_nulls), AfterValidator(_requestable)
]
QueueName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=DNS_NAME)]
"""The same where it is the value of a label."""
Image = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=IMAGE)]


NodeLabel = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?$", max_length=317),
]
"""The name of a node label."""


class EnvVar(Model):
    """An environment variable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
    """name of the variable."""
    value: Annotated[str | None, Field(max_length=4096)] = None
    """value as it stands."""
    value_from: ValueSource | None = None
    """valueFrom as in Kubernetes (secretKeyRef, configMapKeyRef, fieldRef)."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.value is not None and self.value_from is not None:
            raise ValueError("give value or valueFrom, not both")
        return self


class Topology(Model):
    """Kueue's topology-aware scheduling."""

    required: NodeLabel | None = None
    """required: all pods run in one domain of this node label."""
    preferred: NodeLabel | None = None
    """preferred: all pods run in one domain of this node label where possible."""
    unconstrained: Literal[True] | None = None
    """unconstrained: Kueue finds nodes anywhere before it admits the pods."""
    slice_required: NodeLabel | None = None
    """sliceRequired: each slice of pods runs in one domain of this label."""
    slice_size: Annotated[int | None, Field(ge=1, le=4096)] = None
    """sliceSize: pods in a slice."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(each is not None for each in (self.required, self.preferred, self.unconstrained)) > 1:
            raise ValueError(ONE_TOPOLOGY)
        if (self.slice_required is None) != (self.slice_size is None):
            raise ValueError(WHOLE_SLICE)
        return self


class Pods(Model):
    """A stage's pods; `diht run` ignores them."""

    image: Image | None = None
    """image of the recipe."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """imagePullPolicy as in Kubernetes."""
    image_pull_secrets: Annotated[list[ObjectName], Field(max_length=16)] = []
    """imagePullSecrets: Secrets with registry credentials."""
    queue_name: QueueName | None = None
    """queueName: Kueue's LocalQueue that admits the stage."""
    queueing: Literal["PerAttempt", "PerRun"] = "PerAttempt"
    """queueing of restarts: PerAttempt queues each attempt, PerRun keeps a stage's quota until it ends (Kueue only)."""
    queue_priority_class: QueueName | None = None
    """queuePriorityClass: Kueue's WorkloadPriorityClass: the order in the queue, without preempting pods."""
    min_workers: Annotated[int | None, Field(ge=1, le=4096)] = None
    """minWorkers with which Kueue may start a stage of several workers; unset waits for all."""
    topology: Topology | None = None
    """topology: Kueue's topology-aware scheduling."""
    gang: Literal["Auto", "PodGroup", "None"] = "Auto"
    """gang scheduling by Kubernetes: Auto uses PodGroups (scheduling.k8s.io/v1beta1) where served, PodGroup requires
    them, None does without."""
    scheduler_name: Text | None = None
    """schedulerName as in Kubernetes."""
    resources: Resources = {}
    """resources of a pod, as requests and limits: cpu, memory, nvidia.com/gpu ..."""
    node_selector: Labels = {}
    """nodeSelector as in Kubernetes."""
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = []
    """tolerations as in Kubernetes."""
    affinity: Affinity | None = None
    """affinity as in Kubernetes."""
    priority_class_name: ObjectName | None = None
    """priorityClassName as in Kubernetes."""
    service_account_name: ObjectName | None = None
    """serviceAccountName whose identity reaches the storage."""
    env: Annotated[list[EnvVar], Keyed("name"), Field(max_length=64)] = []
    """env: environment variables."""
    volumes: Annotated[list[Volume], Keyed("name"), Field(max_length=64)] = []
    """volumes as in Kubernetes."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64)] = []
    """volumeMounts as in Kubernetes."""
    labels: Labels = {}
    """labels added to pods."""
    annotations: Annotations = {}
    """annotations added to pods."""
    runtime_class_name: ObjectName | None = None
    """runtimeClassName as in Kubernetes."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=3600)] | None = None
    """terminationGracePeriodSeconds for the last checkpoint; unset means 300."""
    shm_size: Size | None = None
    """shmSize of /dev/shm, such as 8Gi; unset means half the memory."""
    host_network: bool | None = None
    """hostNetwork as in Kubernetes; a training takes a port from 20000 to 28999."""
    security_context: SecurityContext | None = None
    """securityContext of the container, merged over no capabilities, no escalation and a read-only root."""
    pod_security_context: PodSecurityContext | None = None
    """podSecurityContext: the pod's, merged over user and group 1000 and RuntimeDefault."""


def merged(base: Pods, over: Pods | None) -> Pods:
    """`spec.pods` with a stage's own `pods` over it.

    Mappings are merged key by key and `env` by name; any other field that the stage sets replaces the common one, and
    so does its topology, whose levels exclude each other.
    """
    if over is None:
        return base
    fields: dict[str, Any] = {name: getattr(over, name) for name in over.model_fields_set}
    for name, value in fields.items():
        before = getattr(base, name)
        if is_object(value):
            fields[name] = {**(before or {}), **value}
    if "env" in fields:
        by_name = {variable.name: variable for variable in [*base.env, *over.env]}
        fields["env"] = list(by_name.values())
    return base.model_copy(update=fields)


def topology_annotations(topology: Topology | None, pods: int) -> dict[str, str]:
    """The annotations of a template of some pods by which Kueue knows its topology; slices only where there are as
    many.
    """
    if topology is None:
        return {}
    if topology.slice_size is not None and topology.slice_size > pods:  # which Kueue refuses
        topology = topology.model_copy(update={"slice_required": None, "slice_size": None})
    given = {
        "podset-required-topology": topology.required,
        "podset-preferred-topology": topology.preferred,
        "podset-unconstrained-topology": "true" if topology.unconstrained else None,
        "podset-slice-required-topology": topology.slice_required,
        "podset-slice-size": None if topology.slice_size is None else str(topology.slice_size),
    }
    return {f"kueue.x-k8s.io/{name}": value for name, value in given.items() if value is not None}


def becomes_root(pods: Pods) -> bool:
    """Whether a context asks for root and leaves out the consent without which the kubelet does not start the
    program.
    """
    contexts = (pods.security_context or {}, pods.pod_security_context or {})
    return any(each.get("runAsUser") == 0 and each.get("runAsNonRoot") is not False for each in contexts)


def unknown_mounts(pods: Pods) -> list[str]:
    """The volumes that `volumeMounts` names and the pods do not have."""
    known = {*OWN_VOLUMES, *(volume["name"] for volume in pods.volumes)}
    return [mount["name"] for mount in pods.volume_mounts if mount["name"] not in known]


def rendezvous_port(pods: Pods, run: str) -> int:
    """TCP port on which the ranks of a run find each other; on the nodes' network one of its own.

    Pods of two runs may share a node. Where two of them come to the same port all the same, the scheduler keeps them
    apart, since the pods declare it.

    Args:
        pods: of the training.
        run: namespace and name.
    """
    if not pods.host_network:
        return RENDEZVOUS_PORT
    return HOST_PORTS[int.from_bytes(sha256(run.encode()).digest()[:8], "big") % len(HOST_PORTS)]
