"""The Kubernetes types below `spec.pods`: tolerations, affinity, volumes, mounts, references of variables.

They hold what Kubernetes requires and checks of these objects, so that a wrong one is found when the document is
written and not when a pod is made. They stay open: a newer Kubernetes may know more fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from diht_k8s.api.base import Model, without_nulls
from diht_k8s.api.kubernetes_types.quantities import Quantity

TOO_MANY_SOURCES: Final = "a volume has one source: give only one"
ONE_REFERENCE: Final = "valueFrom needs exactly one reference: give only one"
LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"

_Text = Annotated[str, StringConstraints(max_length=1024)]
_Required = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
_Key = Annotated[str, StringConstraints(min_length=1, max_length=317)]
_LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
_Labels = Annotated[dict[str, _LabelValue], Field(max_length=64), BeforeValidator(without_nulls)]
_Strings = Annotated[list[_Text], Field(max_length=256)]
_Open = Annotated[dict[str, Any], Field(max_length=64)]
_Number = Annotated[int, Field(ge=-(2**62), le=2**62)]
_Weight = Annotated[int, Field(ge=1, le=100)]
_Mode = Annotated[int, Field(ge=0, le=0o777)]


class KubernetesType(Model):
    """Open: unknown fields are kept and passed on. The fields are Kubernetes' own, whose reference describes them."""

    model_config = ConfigDict(extra="allow", populate_by_name=False)


class Toleration(KubernetesType):
    """A taint of nodes that the pods tolerate."""

    key: _Text | None = None
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    value: _Text | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: _Number | None = None


class NodeRequirement(KubernetesType):
    """A condition on a node's label or field."""

    key: _Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: _Strings = []


_NodeRequirements = Annotated[list[NodeRequirement], Field(max_length=64)]


class NodeTerm(KubernetesType):
    """Conditions that a node must all meet."""

    match_expressions: _NodeRequirements = []
    match_fields: _NodeRequirements = []


class PreferredNodes(KubernetesType):
    """Nodes that are better by `weight`."""

    weight: _Weight
    preference: NodeTerm


class NodeSelector(KubernetesType):
    """Terms of which a node must meet one."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=64)]


class NodeAffinity(KubernetesType):
    """Which nodes the pods need or prefer."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredNodes], Field(max_length=64)] = []


class LabelRequirement(KubernetesType):
    """A condition on a label."""

    key: _Key
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: _Strings = []


class LabelSelector(KubernetesType):
    """Objects by their labels."""

    match_labels: _Labels = {}
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=64)] = []


class PodTerm(KubernetesType):
    """Pods near which, or away from which, the pods shall run."""

    topology_key: _Key
    label_selector: LabelSelector | None = None
    namespace_selector: _Open | None = None
    namespaces: _Strings = []


class PreferredPods(KubernetesType):
    """Pods whose neighbourhood is better by `weight`."""

    weight: _Weight
    pod_affinity_term: PodTerm


class PodAffinity(KubernetesType):
    """Which pods the pods need or prefer near them, or away from them."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], Field(max_length=64)] = []
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPods], Field(max_length=64)] = []


class Affinity(KubernetesType):
    """Where the pods may run."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class KeyReference(KubernetesType):
    """A key of a Secret or ConfigMap."""

    name: _ObjectName
    key: _ObjectName
    optional: bool | None = None


class FieldReference(KubernetesType):
    """A field of the pod."""

    field_path: _Required
    api_version: _Text | None = None


class ResourceReference(KubernetesType):
    """A request or limit of a container."""

    resource: _Required
    container_name: _Text | None = None
    divisor: Quantity | None = None


class FileReference(KubernetesType):
    """A key of a file in a volume."""

    volume_name: _Required
    path: _Required
    key: _Required
    optional: bool | None = None


class ValueSource(KubernetesType):
    """Where the value of a variable comes from."""

    secret_key_ref: KeyReference | None = None
    config_map_key_ref: KeyReference | None = None
    field_ref: FieldReference | None = None
    resource_field_ref: ResourceReference | None = None
    file_key_ref: FileReference | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(given_of(self, REFERENCES)) != 1:
            raise ValueError(ONE_REFERENCE)
        return self


class EmptyDir(KubernetesType):
    """A folder that lives as long as its pod."""

    medium: _Text | None = None
    size_limit: Quantity | None = None


class HostPath(KubernetesType):
    """A folder or file of the node."""

    path: _Required
    type: _Text | None = None


class ClaimSource(KubernetesType):
    """A PersistentVolumeClaim of the run's namespace."""

    claim_name: _ObjectName
    read_only: bool | None = None


class KeyFile(KubernetesType):
    """A key as a file."""

    key: _ObjectName
    path: _Required
    mode: _Mode | None = None


_KeyFiles = Annotated[list[KeyFile], Field(max_length=64)]


class SecretSource(KubernetesType):
    """A Secret as files."""

    secret_name: _ObjectName
    items: _KeyFiles = []
    default_mode: _Mode | None = None
    optional: bool | None = None


class ConfigMapSource(KubernetesType):
    """A ConfigMap as files."""

    name: _ObjectName
    items: _KeyFiles = []
    default_mode: _Mode | None = None
    optional: bool | None = None


class NfsSource(KubernetesType):
    """A folder of an NFS server."""

    server: _Required
    path: _Required
    read_only: bool | None = None


class CsiSource(KubernetesType):
    """A volume of a CSI driver that lives as long as its pod."""

    driver: _Required
    read_only: bool | None = None
    fs_type: _Text | None = None
    volume_attributes: Annotated[
        dict[str, Annotated[str, StringConstraints(max_length=4096)]],
        Field(max_length=64),
        BeforeValidator(without_nulls),
    ] = {}
    node_publish_secret_ref: _Open | None = None


class ProjectedSource(KubernetesType):
    """Several sources in one folder."""

    sources: Annotated[list[_Open], Field(max_length=64)] = []
    default_mode: _Mode | None = None


class Volume(KubernetesType):
    """A volume of the pods, mounted by an entry of volumeMounts."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    persistent_volume_claim: ClaimSource | None = None
    secret: SecretSource | None = None
    config_map: ConfigMapSource | None = None
    nfs: NfsSource | None = None
    csi: CsiSource | None = None
    projected: ProjectedSource | None = None
    ephemeral: _Open | None = None
    downward_api: Annotated[_Open | None, Field(alias="downwardAPI")] = None
    image: _Open | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if len(given_of(self, SOURCES)) > 1:
            raise ValueError(TOO_MANY_SOURCES)
        return self


class VolumeMount(KubernetesType):
    """Where a volume appears in the container."""

    name: _ObjectName
    mount_path: Annotated[str, StringConstraints(pattern=r"^[^:]+$", max_length=1024)]
    read_only: bool | None = None
    recursive_read_only: Literal["Disabled", "IfPossible", "Enabled"] | None = None
    mount_propagation: Literal["None", "HostToContainer", "Bidirectional"] | None = None
    sub_path: _Text | None = None
    sub_path_expr: _Text | None = None


SOURCES: Final = ("emptyDir", "hostPath", "persistentVolumeClaim", "secret", "configMap", "nfs", "csi", "projected",
                  "ephemeral", "downwardAPI", "image")  # fmt: skip
"""Sources of a volume that are checked; others pass as they are."""
REFERENCES: Final = ("secretKeyRef", "configMapKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef")
"""What a variable's value may come from."""


def wire(value: BaseModel) -> dict[str, Any]:
    """A Kubernetes object as it stands in documents."""
    return value.model_dump(by_alias=True, exclude_unset=True)


def given_of(value: BaseModel, names: tuple[str, ...]) -> list[str]:
    """Those of the wire names that the object has."""
    fields = type(value).model_fields
    aliases = {field.alias or name for name, field in fields.items() if getattr(value, name) is not None}
    return [name for name in names if name in aliases]
