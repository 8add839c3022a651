"""From a TorchX role to the pod template of its Job. Pure.

The pod passes Pod Security `restricted` as it is: a numeric user, no capability, no token, a read-only root with an empty /tmp. What
a role has no field for comes by TorchX's overlays of the namespace `kubernetes`: `V1Pod` as stock TorchX reads it, and ours,
`V1Container` for the role's own container and `V1Job` for the Job around it (in `render`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchx.specs import BindMount, DeviceMount, Role, VolumeMount
from torchx.specs.overlays import apply_overlay, get_overlay

from diht_k8s.api.errors import UserError
from diht_k8s.launch import macros
from diht_k8s.launch.names import slug

IMAGE_PYTHON: Final = "python3"
"""The interpreter in an image, where a role's entry point is the interpreter of the program that submits it."""
USER: Final = 1000
"""Runs in every image, whatever user it names; Pod Security asks for a number that is not root's."""
GRACE_SECONDS: Final = 300
"""Time for the last checkpoint after SIGTERM."""
GRACE_RESERVE_SECONDS: Final = 15
"""What torchrun leaves of it to the pod: it kills its ranks by itself after 30 s unless told otherwise."""
LOST_NODE_SECONDS: Final = 30
"""How long a pod stays on a node that does not answer; Kubernetes' own default is 300 s."""
PEERS_VARIABLE: Final = "DIHT_PEER_HOSTS"
"""Host names of the replicas, with `*` for the index; our launcher waits until each of them is known."""
INDEX_FIELD: Final = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
FIELD_PATH: Final = "[FIELD_PATH]"
"""Stock TorchX's prefix of an environment variable's value that is a field of the pod."""
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
EFA: Final = "vpc.amazonaws.com/efa"


@dataclass(frozen=True, kw_only=True)
class PodConfig:
    """What a pod gets that an AppDef does not say."""

    service_account: str | None = None
    """the pod's identity; its token is not mounted."""
    priority_class: str | None = None
    """name of a PriorityClass."""
    image_pull_policy: str | None = None
    """Always, IfNotPresent or Never; None leaves it to Kubernetes."""
    image_pull_secrets: tuple[str, ...] = ()
    """names of Secrets with registry credentials."""
    reserved_millicpu: int = 0
    """how much less CPU than the limit a pod requests (stock TorchX: 100)."""
    reserved_memmb: int = 0
    """how many MB less memory than the limit a pod requests (stock TorchX: 1024)."""
    efa_device_count: int | None = None
    """overrides the number of EFA devices; None keeps the role's, 0 removes them."""


@dataclass(frozen=True)
class Place:
    """Where the pods of a role meet the others."""

    job: str
    """name of the role's Job: the host name of replica i is `{job}-{i}`."""
    service: str | None
    """headless Service of the application; None where nobody talks to anybody."""
    rank0_host: str
    """address of replica 0 of the first role."""
    is_first: bool
    """whether this is the first role."""


def pod_template(role: Role, config: PodConfig, place: Place, labels: Mapping[str, str]) -> dict[str, Any]:
    """The template of a role's pods.

    Args:
        role: the role after `macros.substituted`.
        config: what the AppDef does not say.
        place: names of the Job and the Service.
        labels: labels of the pods; an overlay adds to them and changes none.

    Raises:
        UserError: no image, or an overlay that leaves no container of the role's name.
    """
    if not role.image:
        raise UserError(f"role {role.name} has no image: give --image, or pods.image in the run document")
    name = slug(role.name)
    template: dict[str, Any] = {
        "metadata": {"labels": {}, "annotations": {"sidecar.istio.io/inject": "false"}},  # a sidecar would never end
        "spec": _pod_spec(role, config, place) | {"containers": [_container(name, role, config, place)]},
    }
    apply_overlay(template, macros.raw(get_overlay(role, "kubernetes", "V1Pod")))
    template["metadata"].setdefault("labels", {}).update(labels)
    spec = template["spec"]
    container = next((item for item in spec["containers"] if item.get("name") == name), None)
    if container is None:
        raise UserError(f"role {role.name}: its overlay leaves no container named {name}: keep it")
    apply_overlay(container, macros.raw(get_overlay(role, "kubernetes", "V1Container", flat_fallback=False)))
    _add_default_env(container, spec.get("terminationGracePeriodSeconds", 30), retries=role.max_retries > 0)
    container["volumeMounts"] = list({mount["mountPath"]: mount for mount in container["volumeMounts"]}.values())
    return template


def image_entrypoint(entrypoint: str) -> str:
    """A role's entry point as an image has it."""
    return IMAGE_PYTHON if entrypoint == sys.executable else entrypoint


def _pod_spec(role: Role, config: PodConfig, place: Place) -> dict[str, Any]:
    capabilities = role.resource.capabilities
    return _present(
        restartPolicy="Never",
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        terminationGracePeriodSeconds=GRACE_SECONDS,
        subdomain=place.service,
        serviceAccountName=config.service_account,
        priorityClassName=config.priority_class,
        imagePullSecrets=[{"name": name} for name in config.image_pull_secrets] or None,
        nodeSelector={INSTANCE_TYPE: capabilities[INSTANCE_TYPE]} if INSTANCE_TYPE in capabilities else None,
        tolerations=[
            {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": LOST_NODE_SECONDS,
            }
            for taint in ("not-ready", "unreachable")
        ],
        securityContext={
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # a claim with many files is not walked at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        volumes=[
            {"name": "dshm", "emptyDir": _shared_memory(role)},
            {"name": "tmp", "emptyDir": {}},
            *(_volume(f"mount-{index}", mount) for index, mount in enumerate(role.mounts)),
        ],
    )


def _container(name: str, role: Role, config: PodConfig, place: Place) -> dict[str, Any]:
    return _present(
        name=name,
        image=role.image,
        imagePullPolicy=config.image_pull_policy,
        command=[macros.argument(image_entrypoint(role.entrypoint))],
        args=[macros.argument(word) for word in role.args] or None,
        env=_environment(role, place),
        ports=[{"name": slug(key, 15), "containerPort": port} for key, port in role.port_map.items()] or None,
        resources=_resources(role, config),
        securityContext=_container_security(role),
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=[
            {"name": "dshm", "mountPath": "/dev/shm"},  # noqa: S108 (a mount, not a file of ours)
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *(_volume_mount(f"mount-{index}", mount) for index, mount in enumerate(role.mounts)),
        ],
    )


def _environment(role: Role, place: Place) -> list[dict[str, Any]]:
    """Variables in an order in which later ones may name earlier ones."""
    env: list[dict[str, Any]] = [
        {"name": macros.REPLICA_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": INDEX_FIELD}}},
        {"name": macros.RANK0_VARIABLE, "value": place.rank0_host},
    ]
    if macros.asks_rank0_in_arguments(role):
        for replica in range(role.num_replicas):
            host = "localhost" if place.is_first and replica == 0 else place.rank0_host
            env.append({"name": f"{macros.RANK0_VARIABLE}_{replica}", "value": host})
    if place.service and role.num_replicas > 1:
        env.append({"name": PEERS_VARIABLE, "value": f"{place.job}-*.{place.service}"})
    for name, value in {**role.env, "TORCHX_IMAGE": role.image}.items():
        if value.startswith(FIELD_PATH):
            env.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": value.removeprefix(FIELD_PATH)}}})
        else:
            env.append({"name": name, "value": macros.variable(value)})
    return env


def _add_default_env(container: dict[str, Any], grace_seconds: int, *, retries: bool) -> None:
    """Variables that a role or its overlay may set otherwise."""
    defaults = {
        "HOME": "/tmp",  # noqa: S108 (the only folder that may be written)
        "USER": "user",  # torch asks for the user's name, which an image has for its own users only
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, grace_seconds - GRACE_RESERVE_SECONDS)),
    }
    if retries:  # a pod that comes back for another never joins a store that torchrun shares with its agent
        defaults["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    names = {item["name"] for item in container["env"]}
    container["env"] += [{"name": name, "value": value} for name, value in defaults.items() if name not in names]


def _resources(role: Role, config: PodConfig) -> dict[str, Any]:
    """Limits as asked; requests leave room for what a node keeps for itself, if that is configured."""
    resource = role.resource
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    if resource.cpu > 0:
        milli = int(resource.cpu * 1000)
        limits["cpu"], requests["cpu"] = f"{milli}m", f"{max(milli - config.reserved_millicpu, 0)}m"
    if resource.memMB > 0:
        limits["memory"] = f"{int(resource.memMB)}M"
        requests["memory"] = f"{max(int(resource.memMB) - config.reserved_memmb, 0)}M"
    devices = {"nvidia.com/gpu": max(resource.gpu, 0), **resource.devices}
    if config.efa_device_count is not None:
        devices[EFA] = config.efa_device_count
    limits |= {device: str(count) for device, count in devices.items() if count > 0}
    requests |= {device: str(count) for device, count in devices.items() if count > 0}
    return _present(limits=limits or None, requests=requests or None)


def _container_security(role: Role) -> dict[str, Any]:
    if any(isinstance(mount, DeviceMount) for mount in role.mounts):
        return {"privileged": True}  # Kubernetes opens host devices to privileged containers only
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _shared_memory(role: Role) -> dict[str, Any]:
    """Half of the memory: what is written there counts as the container's own."""
    memory = int(role.resource.memMB)
    return _present(medium="Memory", sizeLimit=f"{memory // 2}M" if memory > 1 else None)


def _volume(name: str, mount: BindMount | VolumeMount | DeviceMount) -> dict[str, Any]:
    if not isinstance(mount, VolumeMount):
        return {"name": name, "hostPath": {"path": mount.src_path}}
    kind, _, source = mount.src.rpartition("/")
    if kind == "secret":
        return {"name": name, "secret": {"secretName": source}}
    if kind == "configmap":
        return {"name": name, "configMap": {"name": source}}
    if kind:
        raise UserError(f"mount {mount.src}: write a claim's name, secret/NAME or configmap/NAME")
    return {"name": name, "persistentVolumeClaim": {"claimName": source}}


def _volume_mount(name: str, mount: BindMount | VolumeMount | DeviceMount) -> dict[str, Any]:
    read_only = not set(mount.permissions) & set("wm") if isinstance(mount, DeviceMount) else mount.read_only
    return {"name": name, "mountPath": mount.dst_path, "readOnly": read_only}


def _present(**fields: Any) -> dict[str, Any]:
    """The fields that are set."""
    return {name: value for name, value in fields.items() if value is not None}
