"""The pod template of a TorchX role, with valid names of Kubernetes and TorchX's macros. Pure.

The pod passes Pod Security `restricted`: a numeric user, no capabilities, no token, a read-only root with an empty
/tmp. What a role has no field for comes from TorchX overlays of the namespace `kubernetes`: `V1Pod`, as in stock
TorchX, and two of this project: `V1Container` for the role's container, and `V1Job` for the Job around it (in
`render`).

Stock TorchX writes each replica's values into a pod of its own. The pods of an Indexed Job are identical, so the
kubelet fills in what differs: it replaces `$(NAME)` in a pod's command and environment by an environment variable. All
other dollar signs are doubled, so that text arrives unchanged.

In commands, the variable with replica 0's address has a different name in each replica: replica 0 must find "localhost"
in its own, because torchrun hosts the store only on a machine that it recognises as itself, and the DNS name may not
resolve yet.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torchx.specs import BindMount, DeviceMount, Role, VolumeMount, macros
from torchx.specs.overlays import apply_overlay, get_overlay

from diht_k8s.api.errors import UserError
from diht_k8s.kube.pod_summary import CONTAINER_ANNOTATION

MAX_NAME: Final = 63
"""Longest DNS label: names of Jobs and Services, host names of pods."""
MAX_ROLE: Final = 20
"""Characters of a role's name in the name of its Job, if an application has several roles."""


def slug(text: str, limit: int = MAX_NAME) -> str:
    """Text as a DNS label that starts with a letter: `Train_ViT.B/16` becomes `train-vit-b-16`."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"app-{label}".rstrip("-")
    return label[:limit].rstrip("-")


def label_value(text: str) -> str:
    """Text as the value of a label; characters that Kubernetes refuses become dashes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:MAX_NAME].strip("_.-")


def unique_name(name: str, token: str, replicas: Sequence[int], *, roles: int = 1) -> str:
    """A name for one submission of an application, short enough for the names of its Jobs and their hosts.

    Args:
        name: the application's name.
        token: makes the name unique; lower-case letters and digits.
        replicas: number of replicas of each role.
        roles: number of roles.
    """
    host = len(f"-{max(replicas) - 1}")
    role = MAX_ROLE + 1 if roles > 1 else 0
    return f"{slug(name, MAX_NAME - host - role - len(token) - 1)}-{token}"


def job_names(name: str, roles: Sequence[str]) -> list[str]:
    """The names of an application's Jobs: its own name if it has one role, else its name and the role's."""
    if len(roles) == 1:
        return [name]
    names: list[str] = []
    for index, role in enumerate(roles):
        candidate = f"{name}-{slug(role, MAX_ROLE)}"
        names.append(f"{name}-{index}" if candidate in names else candidate)
    return names


REPLICA_VARIABLE: Final = "TORCHX_REPLICA_ID"
RANK0_VARIABLE: Final = "TORCHX_RANK0_HOST"
_REPLICA: Final = "\ue000"
_RANK0: Final = "\ue001"


def substituted(role: Role, app_id: str) -> Role:
    """A copy of the role with its macros replaced.

    Values that differ between replicas stay marked, for `argument`, `variable` or `raw`.
    """
    return macros.Values(img_root="", app_id=app_id, replica_id=_REPLICA, rank0_env=_RANK0).apply(role)


def argument(text: str) -> str:
    """The text as a word of a pod's command."""
    return _filled(text.replace("$", "$$"), f"{RANK0_VARIABLE}_$({REPLICA_VARIABLE})")


def variable(text: str) -> str:
    """The text as the value of an environment variable of a pod."""
    return _filled(text.replace("$", "$$"), RANK0_VARIABLE)


def raw(value: Any) -> Any:
    """The value as part of a manifest, however nested: Kubernetes' `$(NAME)` keeps its meaning."""
    if isinstance(value, str):
        return _filled(value, RANK0_VARIABLE)
    if isinstance(value, dict):
        return {key: raw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(raw(item) for item in value)
    return value


def uses_rank0(role: Role) -> bool:
    """Whether a substituted role uses the address of replica 0 anywhere."""
    return any(_RANK0 in text for text in _texts([role.args, role.env, role.metadata]))


def uses_rank0_in_arguments(role: Role) -> bool:
    """Whether a substituted role's command uses the address of replica 0."""
    return any(_RANK0 in text for text in role.args)


def _filled(text: str, rank0: str) -> str:
    return text.replace(_REPLICA, f"$({REPLICA_VARIABLE})").replace(_RANK0, rank0)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


IMAGE_PYTHON: Final = "python3"
"""The interpreter in an image: replaces the submitting program's own as a role's entry point."""
USER: Final = 1000
"""User and group of all pods, whatever the image names; Pod Security requires a number other than root's."""
GRACE_SECONDS: Final = 300
"""Time for the last checkpoint after SIGTERM."""
GRACE_RESERVE_SECONDS: Final = 15
"""Part of the grace that torchrun leaves to the pod; without a setting it kills its ranks after 30 s."""
LOST_NODE_SECONDS: Final = 30
"""How long a pod stays on a node that does not answer; the default of Kubernetes is 300 s."""
PEERS_VARIABLE: Final = "DIHT_PEER_HOSTS"
"""Host names of the replicas, with `*` for the index; the launcher waits until all of them resolve."""
INDEX_FIELD: Final = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
FIELD_PATH: Final = "[FIELD_PATH]"
"""Prefix by which stock TorchX marks the value of an environment variable as a field of the pod."""
SHARED_MEMORY: Final = "dshm"
"""Name that stock TorchX gives the volume at /dev/shm."""
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
EFA: Final = "vpc.amazonaws.com/efa"


@dataclass(frozen=True, kw_only=True)
class PodConfig:
    """Settings of a pod that an AppDef has no field for."""

    service_account: str | None = None
    """the pod's identity; its token is not mounted."""
    priority_class: str | None = None
    """name of a PriorityClass."""
    image_pull_policy: str | None = None
    """Always, IfNotPresent or Never; None leaves it to Kubernetes."""
    image_pull_secrets: tuple[str, ...] = ()
    """names of Secrets with registry credentials."""
    reserved_millicpu: int = 0
    """millicores by which a pod's CPU request is below its limit (stock TorchX: 100)."""
    reserved_memmb: int = 0
    """MB by which a pod's memory request is below its limit (stock TorchX: 1024)."""
    efa_device_count: int | None = None
    """overrides the number of EFA devices; None keeps the role's, 0 removes them."""


@dataclass(frozen=True)
class RoleHosts:
    """Host names by which the pods of a role find each other."""

    job: str
    """name of the role's Job: the host name of replica i is `{job}-{i}`."""
    service: str | None
    """headless Service of the application; None if its replicas do not communicate."""
    rank0_host: str
    """address of replica 0 of the first role."""
    is_first: bool
    """whether this is the first role."""


def pod_template(role: Role, config: PodConfig, hosts: RoleHosts, labels: Mapping[str, str]) -> dict[str, Any]:
    """The template of a role's pods.

    Args:
        role: the role after `substituted`.
        config: what the AppDef does not say.
        hosts: names of the Job and the Service.
        labels: labels of the pods, which overlays can add to but not change.

    Raises:
        UserError: the role has no image, or an overlay removes the role's container.
    """
    if not role.image:
        raise UserError(f"role {role.name} has no image: give --image, or pods.image in the run document")
    name = slug(role.name)
    template: dict[str, Any] = {
        # a sidecar that is no init container would never end
        "metadata": {"labels": {}, "annotations": {"sidecar.istio.io/inject": "false", CONTAINER_ANNOTATION: name}},
        "spec": _pod_spec(role, config, hosts) | {"containers": [_container(name, role, config, hosts)]},
    }
    apply_overlay(template, raw(get_overlay(role, "kubernetes", "V1Pod")))
    template["metadata"].setdefault("labels", {}).update(labels)
    spec = template["spec"]
    spec["volumes"] = [_of_one_source(volume) for volume in spec["volumes"]]
    container = next((item for item in spec["containers"] if item.get("name") == name), None)
    if container is None:
        raise UserError(f"role {role.name}: its overlay removes the container {name}: keep it")
    apply_overlay(container, raw(get_overlay(role, "kubernetes", "V1Container", flat_fallback=False)))
    _require(role, container, "env", "name")
    _require(role, container, "volumeMounts", "mountPath")
    _add_default_env(container, spec.get("terminationGracePeriodSeconds", 30), retries=role.max_retries > 0)
    container["volumeMounts"] = list({mount["mountPath"]: mount for mount in container["volumeMounts"]}.values())
    return template


def _require(role: Role, container: Mapping[str, Any], field: str, key: str) -> None:
    """Overlays of other components than this project's are not validated before."""
    for item in container[field]:
        if not isinstance(item, Mapping) or not isinstance(item.get(key), str):
            raise UserError(f"role {role.name}: an entry of {field} has no {key} (text): correct its overlay")


def image_entrypoint(entrypoint: str) -> str:
    """The entry point of a role, as an image has it."""
    return IMAGE_PYTHON if entrypoint == sys.executable else entrypoint


def _pod_spec(role: Role, config: PodConfig, hosts: RoleHosts) -> dict[str, Any]:
    capabilities = role.resource.capabilities
    return _present(
        restartPolicy="Never",
        automountServiceAccountToken=False,
        enableServiceLinks=False,
        terminationGracePeriodSeconds=GRACE_SECONDS,
        subdomain=hosts.service,
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
            "fsGroupChangePolicy": "OnRootMismatch",  # does not walk all files of a claim at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        volumes=[
            {"name": SHARED_MEMORY, "emptyDir": _shared_memory(role)},
            {"name": "tmp", "emptyDir": {}},
            *(_volume(f"mount-{index}", mount) for index, mount in enumerate(role.mounts)),
        ],
    )


def _container(name: str, role: Role, config: PodConfig, hosts: RoleHosts) -> dict[str, Any]:
    return _present(
        name=name,
        image=role.image,
        imagePullPolicy=config.image_pull_policy,
        command=[argument(image_entrypoint(role.entrypoint))],
        args=[argument(word) for word in role.args] or None,
        env=_environment(role, hosts),
        ports=[{"name": slug(key, 15), "containerPort": port} for key, port in role.port_map.items()] or None,
        resources=_resources(role, config),
        securityContext=_container_security(role),
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=[
            {"name": SHARED_MEMORY, "mountPath": "/dev/shm"},  # noqa: S108 (a mount, no temporary file)
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *(_volume_mount(f"mount-{index}", mount) for index, mount in enumerate(role.mounts)),
        ],
    )


def _environment(role: Role, hosts: RoleHosts) -> list[dict[str, Any]]:
    """Variables, ordered so that later ones can use earlier ones."""
    env: list[dict[str, Any]] = [
        {"name": REPLICA_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": INDEX_FIELD}}},
        {"name": RANK0_VARIABLE, "value": hosts.rank0_host},
    ]
    if uses_rank0_in_arguments(role):
        for replica in range(role.num_replicas):
            host = "localhost" if hosts.is_first and replica == 0 else hosts.rank0_host
            env.append({"name": f"{RANK0_VARIABLE}_{replica}", "value": host})
    if hosts.service and role.num_replicas > 1:
        env.append({"name": PEERS_VARIABLE, "value": f"{hosts.job}-*.{hosts.service}"})
    for name, value in {**role.env, "TORCHX_IMAGE": role.image}.items():
        if value.startswith(FIELD_PATH):
            env.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": value.removeprefix(FIELD_PATH)}}})
        else:
            env.append({"name": name, "value": variable(value)})
    return env


def _add_default_env(container: dict[str, Any], grace_seconds: int, *, retries: bool) -> None:
    """Add variables unless the role or its overlay sets them."""
    defaults = {
        "HOME": "/tmp",  # noqa: S108 (the only folder that may be written)
        "USER": "user",  # torch needs a user name, and the image may have none for this number
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, grace_seconds - GRACE_RESERVE_SECONDS)),
    }
    if retries:  # a replacement pod cannot join a store that torchrun shares with its agent
        defaults["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    names = {item["name"] for item in container["env"]}
    container["env"] += [{"name": name, "value": value} for name, value in defaults.items() if name not in names]


def _resources(role: Role, config: PodConfig) -> dict[str, Any]:
    """Limits as requested by the role; requests are lower by what is configured for the node itself."""
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
    """Half of the container's memory, which files there count towards."""
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


def _of_one_source(volume: dict[str, Any]) -> dict[str, Any]:
    """An overlay's volume by the name of one of ours, which are emptyDirs, takes its place."""
    without = {key: value for key, value in volume.items() if key != "emptyDir"}
    return without if len(without) > 1 else volume


def _volume_mount(name: str, mount: BindMount | VolumeMount | DeviceMount) -> dict[str, Any]:
    read_only = not set(mount.permissions) & set("wm") if isinstance(mount, DeviceMount) else mount.read_only
    return {"name": name, "mountPath": mount.dst_path, "readOnly": read_only}


def _present(**fields: Any) -> dict[str, Any]:
    """The fields that are set."""
    return {name: value for name, value in fields.items() if value is not None}
