"""`securityContext` and `podSecurityContext` of `spec.pods`, and the Pod Security level that pods need. Pure.

The levels and their rules are those of Kubernetes' Pod Security Standards, version 1.37
(https://kubernetes.io/docs/concepts/security/pod-security-standards).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from diht_k8s.api.kubernetes_types.pod_types import SOURCES, KubernetesType, Volume, given_of

CAPABILITY_PREFIX: Final = "capabilities are named without CAP_: give for example IPC_LOCK"
ROOT_NEEDS_CONSENT: Final = "runAsUser 0 is root, which needs runAsNonRoot: false beside it"
PRIVILEGED_ESCALATES: Final = "privileged and allowPrivilegeEscalation: false exclude each other: change one"
REFUSED_ADVICE: Final = "`diht validate` names the fields that need more; change them, or the namespace's label pod-security.kubernetes.io/enforce"
"""What to do where a namespace's Pod Security refuses pods."""

_Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Word = Annotated[str, StringConstraints(min_length=1, max_length=253)]
_Capabilities = Annotated[list[Annotated[str, StringConstraints(pattern=r"^[A-Z_]+$", max_length=63)]], Field(max_length=64)]  # fmt: skip


class Capabilities(KubernetesType):
    """Linux capabilities of the container. They take effect for root only: Kubernetes has no ambient ones."""

    add: _Capabilities = []
    drop: _Capabilities = []

    @model_validator(mode="after")
    def _without_prefix(self) -> Self:
        if any(name.startswith("CAP_") for name in self.add):
            raise ValueError(CAPABILITY_PREFIX)
        return self


class SecurityProfile(KubernetesType):
    """A seccomp or AppArmor profile."""

    type: Literal["RuntimeDefault", "Localhost", "Unconfined"]
    localhost_profile: _Word | None = None


class SeLinuxOptions(KubernetesType):
    """An SELinux label."""

    user: _Word | None = None
    role: _Word | None = None
    type: _Word | None = None
    level: _Word | None = None


class _Context(KubernetesType):
    """What Kubernetes knows of both a pod and a container."""

    run_as_user: _Id | None = None
    run_as_group: _Id | None = None
    run_as_non_root: bool | None = None
    seccomp_profile: SecurityProfile | None = None
    app_armor_profile: SecurityProfile | None = None
    se_linux_options: SeLinuxOptions | None = None

    @model_validator(mode="after")
    def _root_on_purpose(self) -> Self:
        if self.run_as_user == 0 and self.run_as_non_root is not False:
            raise ValueError(ROOT_NEEDS_CONSENT)
        return self


class SecurityContext(_Context):
    """The container's, over what every pod of this project has."""

    capabilities: Capabilities | None = None
    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    read_only_root_filesystem: bool | None = None
    proc_mount: Literal["Default", "Unmasked"] | None = None

    @model_validator(mode="after")
    def _privileged_escalates(self) -> Self:
        if self.privileged and self.allow_privilege_escalation is False:
            raise ValueError(PRIVILEGED_ESCALATES)
        return self

    @property
    def escalates(self) -> bool:
        """Whether Kubernetes refuses the container unless it may gain privileges."""
        added = [] if self.capabilities is None else self.capabilities.add
        return bool(self.privileged) or "SYS_ADMIN" in added


class Sysctl(KubernetesType):
    """A kernel parameter of the pod."""

    name: _Word
    value: Annotated[str, StringConstraints(max_length=253)]


class PodSecurityContext(_Context):
    """The pod's, over what every pod of this project has."""

    fs_group: _Id | None = None
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] | None = None
    supplemental_groups: Annotated[list[_Id], Field(max_length=64)] = []
    sysctls: Annotated[list[Sysctl], Field(max_length=64)] = []


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


BASELINE_CAPABILITIES: Final = frozenset((
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
))  # fmt: skip
RESTRICTED_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})
RESTRICTED_VOLUMES: Final = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
                             "projected", "secret")  # fmt: skip
SAFE_SYSCTLS: Final = frozenset((
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
))  # fmt: skip
CONTAINER_TYPES: Final = frozenset(("container_t", "container_init_t", "container_kvm_t", "container_engine_t"))


def volume_demands(volumes: list[Volume]) -> Iterator[Demand]:
    """What volumes need."""
    for index, volume in enumerate(volumes):
        for source in (*given_of(volume, SOURCES), *(volume.model_extra or {})):
            if source == "hostPath":
                yield Demand(Level.PRIVILEGED, ("volumes", index, source), "hostPath volumes")
            elif source not in RESTRICTED_VOLUMES:
                yield Demand(Level.BASELINE, ("volumes", index, source), "restricted volume types")


def context_demands(context: _Context, field: str) -> Iterator[Demand]:
    """What a context of a pod or container needs; `field` is its name below `pods`."""
    if context.run_as_user == 0:
        yield Demand(Level.BASELINE, (field, "runAsUser"), "runAsUser=0")
    if context.run_as_non_root is False:
        yield Demand(Level.BASELINE, (field, "runAsNonRoot"), "runAsNonRoot != true")
    for name, profile in (("seccompProfile", context.seccomp_profile), ("appArmorProfile", context.app_armor_profile)):
        if profile is not None and profile.type == "Unconfined":
            yield Demand(Level.PRIVILEGED, (field, name, "type"), f"{name} Unconfined")
    yield from _se_linux_demands(context.se_linux_options or SeLinuxOptions(), field)
    if isinstance(context, SecurityContext):
        yield from _container_demands(context, field)
    if isinstance(context, PodSecurityContext):
        for index, sysctl in enumerate(context.sysctls):
            if sysctl.name not in SAFE_SYSCTLS:
                yield Demand(Level.PRIVILEGED, (field, "sysctls", index), f"forbidden sysctl {sysctl.name}")


def _se_linux_demands(options: SeLinuxOptions, field: str) -> Iterator[Demand]:
    refused = {
        "type": options.type is not None and options.type not in CONTAINER_TYPES,
        "user": options.user is not None,
        "role": options.role is not None,
    }
    for name in (name for name, is_refused in refused.items() if is_refused):
        yield Demand(Level.PRIVILEGED, (field, "seLinuxOptions", name), "seLinuxOptions")


def _container_demands(context: SecurityContext, field: str) -> Iterator[Demand]:
    if context.privileged:
        yield Demand(Level.PRIVILEGED, (field, "privileged"), "privileged")
    if context.proc_mount == "Unmasked":
        yield Demand(Level.PRIVILEGED, (field, "procMount"), "procMount")
    if context.allow_privilege_escalation:
        yield Demand(Level.BASELINE, (field, "allowPrivilegeEscalation"), "allowPrivilegeEscalation != false")
    if (capabilities := context.capabilities) is None:
        return
    for index, name in enumerate(capabilities.add):
        if name not in RESTRICTED_CAPABILITIES:
            level = Level.BASELINE if name in BASELINE_CAPABILITIES else Level.PRIVILEGED
            yield Demand(level, (field, "capabilities", "add", index), f"capability {name}")
    if "drop" in capabilities.model_fields_set and "ALL" not in capabilities.drop:
        yield Demand(Level.BASELINE, (field, "capabilities", "drop"), "unrestricted capabilities: ALL is not dropped")
