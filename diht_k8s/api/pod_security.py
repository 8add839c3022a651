"""The Pod Security level that the pods of a run need, by field. Pure.

The levels and their rules are those of Kubernetes' Pod Security Standards, version 1.37
(https://kubernetes.io/docs/concepts/security/pod-security-standards).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from diht_k8s.api.base import FieldPath
from diht_k8s.api.pods import Pods, merged
from diht_k8s.api.run import Spec

REFUSED_ADVICE: Final = (
    "`diht validate` names the fields that need more; change them, or the namespace's label "
    "pod-security.kubernetes.io/enforce"
)
"""What to do where a namespace's Pod Security refuses pods."""

IDLE_CAPABILITIES: Final = (
    "capabilities take effect for root only, and the pods run as user 1000: set runAsUser: 0 and runAsNonRoot: "
    "false beside "
    "them, or raise the limits in the nodes' container runtime"
)


class Level(IntEnum):
    """Pod Security levels, from the strictest on."""

    RESTRICTED = 0
    BASELINE = 1
    PRIVILEGED = 2

    def __str__(self) -> str:
        """As the label of a namespace has it."""
        return self.name.lower()


@dataclass(frozen=True)
class Demand:
    """A field for which the pods need more than `restricted`."""

    level: Level
    path: tuple[str | int, ...]
    """below `pods`, as it stands in documents."""
    why: str
    """the rule, in Kubernetes' words."""


BASELINE_CAPABILITIES: Final = frozenset(
    (
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    )
)
RESTRICTED_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})
RESTRICTED_VOLUMES: Final = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
)
SAFE_SYSCTLS: Final = frozenset(
    (
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_notsent_lowat",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_slow_start_after_idle",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    )
)
CONTAINER_TYPES: Final = frozenset(("container_t", "container_init_t", "container_kvm_t", "container_engine_t"))


def level_of(spec: Spec) -> Level:
    """The Pod Security level that a namespace must allow for this run."""
    return max((demand.level for _, demand in run_demands(spec)), default=Level.RESTRICTED)


def run_demands(spec: Spec) -> list[tuple[FieldPath, Demand]]:
    """Each field of the run for which it needs more than `restricted`, with its path from `spec` on; once each."""
    found: dict[FieldPath, Demand] = {}
    for place, common, own in _pods_of(spec):
        of_stage = {demand.path for demand in demands(own)}
        for demand in demands(merged(common, own)):
            found[(*(place if demand.path in of_stage else ("spec", "pods")), *demand.path)] = demand
    return list(found.items())


def idle_capabilities(spec: Spec) -> list[FieldPath]:
    """The fields that add capabilities to a container whose user cannot use them."""
    found: dict[FieldPath, None] = {}
    for place, common, own in _pods_of(spec):
        pods = merged(common, own)
        context, pod = pods.security_context or {}, pods.pod_security_context or {}
        if not context.get("capabilities", {}).get("add"):
            continue
        if context.get("runAsUser", pod.get("runAsUser")) != 0 and not context.get("privileged"):
            mine = "capabilities" in (own.security_context or {})
            found[(*(place if mine else ("spec", "pods")), "securityContext", "capabilities", "add")] = None
    return list(found)


def _pods_of(spec: Spec) -> list[tuple[FieldPath, Pods, Pods]]:
    """Of each stage: the path of its own pods, the common ones, its own."""
    return [
        (("spec", stage.value, "pods"), spec.pods, getattr(spec, stage.value).pods or Pods()) for stage in spec.stages
    ]


def demands(pods: Pods) -> list[Demand]:
    """The fields for which these pods need more than Pod Security `restricted`."""
    found = [*volume_demands(pods.volumes)]
    container, pod = pods.security_context or {}, pods.pod_security_context or {}
    if pods.host_network:
        found.append(Demand(Level.PRIVILEGED, ("hostNetwork",), "host namespaces"))
    found += [*context_demands(container, "securityContext"), *context_demands(pod, "podSecurityContext")]
    if escalates(container) and "allowPrivilegeEscalation" not in container:  # which the container then has
        found.append(Demand(Level.BASELINE, ("securityContext",), "allowPrivilegeEscalation != false"))
    return found


def escalates(context: Mapping[str, Any]) -> bool:
    """Whether Kubernetes refuses a container with this context unless it may gain privileges."""
    return bool(context.get("privileged")) or "SYS_ADMIN" in context.get("capabilities", {}).get("add", [])


def volume_demands(volumes: list[dict[str, Any]]) -> Iterator[Demand]:
    """What volumes need."""
    for index, volume in enumerate(volumes):
        for source in volume.keys() - {"name"}:
            if source == "hostPath":
                yield Demand(Level.PRIVILEGED, ("volumes", index, source), "hostPath volumes")
            elif source not in RESTRICTED_VOLUMES:
                yield Demand(Level.BASELINE, ("volumes", index, source), "restricted volume types")


def context_demands(context: Mapping[str, Any], field: str) -> Iterator[Demand]:
    """What a context of a pod or container needs; `field` is its name below `pods`."""
    if context.get("runAsUser") == 0:
        yield Demand(Level.BASELINE, (field, "runAsUser"), "runAsUser=0")
    if context.get("runAsNonRoot") is False:
        yield Demand(Level.BASELINE, (field, "runAsNonRoot"), "runAsNonRoot != true")
    for name in ("seccompProfile", "appArmorProfile"):
        if context.get(name, {}).get("type") == "Unconfined":
            yield Demand(Level.PRIVILEGED, (field, name, "type"), f"{name} Unconfined")
    options = context.get("seLinuxOptions", {})
    for name in ("type", "user", "role"):
        if options.get(name) and (name != "type" or options[name] not in CONTAINER_TYPES):
            yield Demand(Level.PRIVILEGED, (field, "seLinuxOptions", name), "seLinuxOptions")
    for index, sysctl in enumerate(context.get("sysctls", [])):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield Demand(Level.PRIVILEGED, (field, "sysctls", index), f"forbidden sysctl {sysctl['name']}")
    yield from _container_demands(context, field)


def _container_demands(context: Mapping[str, Any], field: str) -> Iterator[Demand]:
    """Of fields that a pod's context does not have."""
    if context.get("privileged"):
        yield Demand(Level.PRIVILEGED, (field, "privileged"), "privileged")
    if context.get("allowPrivilegeEscalation"):
        yield Demand(Level.BASELINE, (field, "allowPrivilegeEscalation"), "allowPrivilegeEscalation != false")
    capabilities = context.get("capabilities", {})
    for index, name in enumerate(capabilities.get("add", [])):
        if name not in RESTRICTED_CAPABILITIES:
            level = Level.BASELINE if name in BASELINE_CAPABILITIES else Level.PRIVILEGED
            yield Demand(level, (field, "capabilities", "add", index), f"capability {name}")
    if "ALL" not in capabilities.get("drop", ["ALL"]):
        yield Demand(Level.BASELINE, (field, "capabilities", "drop"), "unrestricted capabilities: ALL is not dropped")
