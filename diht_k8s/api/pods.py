"""`spec.pods`: the curated part of a pod that a run may set; each stage's own `pods` is merged over it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from diht_k8s.api.base import Model, Text

Labels = Annotated[dict[str, str], Field(max_length=64)]
Objects = Annotated[list[dict[str, Any]], Field(max_length=64)]


class EnvVar(Model):
    """An environment variable: a value, or a reference to a Secret or ConfigMap key."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
    """name of the variable."""
    value: Annotated[str | None, Field(max_length=4096)] = None
    """value as it stands."""
    value_from: dict[str, Any] | None = None
    """valueFrom as in Kubernetes (secretKeyRef, configMapKeyRef, fieldRef)."""


class Pods(Model):
    """How the pods of a stage look. `diht run` ignores it."""

    image: Text | None = None
    """image of the recipe."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """imagePullPolicy as in Kubernetes."""
    image_pull_secrets: Annotated[list[Text], Field(max_length=16)] = []
    """imagePullSecrets names Secrets with registry credentials."""
    queue_name: Text | None = None
    """queueName is the Kueue LocalQueue or Volcano queue that admits the stage."""
    resources: Annotated[dict[str, str | int], Field(max_length=64)] = {}
    """resources of each pod, as requests and limits: cpu, memory, nvidia.com/gpu."""
    node_selector: Labels = {}
    """nodeSelector as in Kubernetes."""
    tolerations: Objects = []
    """tolerations as in Kubernetes."""
    affinity: dict[str, Any] | None = None
    """affinity as in Kubernetes."""
    priority_class_name: Text | None = None
    """priorityClassName as in Kubernetes."""
    service_account_name: Text | None = None
    """serviceAccountName whose identity reaches the storage."""
    env: Annotated[list[EnvVar], Field(max_length=64)] = []
    """env adds environment variables."""
    volumes: Objects = []
    """volumes as in Kubernetes, each mounted by an entry of volumeMounts."""
    volume_mounts: Objects = []
    """volumeMounts as in Kubernetes."""
    labels: Labels = {}
    """labels added to each pod."""
    annotations: Labels = {}
    """annotations added to each pod."""
    runtime_class_name: Text | None = None
    """runtimeClassName as in Kubernetes."""
    termination_grace_period_seconds: Annotated[int, Field(ge=30, le=3600)] | None = None
    """terminationGracePeriodSeconds: time for the last checkpoint after SIGTERM; 300 when unset."""
    shm_size: Text | None = None
    """shmSize of the memory volume at /dev/shm, for example 8Gi; half of the memory when unset."""
