"""Pods of a run and the Pod Security level that Kubernetes asks for them, as a table for the unit and cluster tiers."""

from __future__ import annotations

from typing import Any, Final

ROOT: Final = {"runAsUser": 0, "runAsNonRoot": False}


def container(**context: Any) -> dict[str, Any]:
    return {"securityContext": context}


def pod(**context: Any) -> dict[str, Any]:
    return {"podSecurityContext": context}


LEVELS: Final[dict[str, tuple[dict[str, Any], str, tuple[str, ...]]]] = {
    "nothing": ({}, "restricted", ()),
    "extended resources": (
        {"resources": {"rdma/hca": 1, "nvidia.com/gpu": 8, "hugepages-2Mi": "1Gi"}},
        "restricted",
        (),
    ),
    "settings": ({"env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}], "shmSize": "8Gi"}, "restricted", ()),
    "host network": ({"hostNetwork": True}, "privileged", ("hostNetwork",)),
    "no host network": ({"hostNetwork": False}, "restricted", ()),
    "IPC_LOCK": (container(capabilities={"add": ["IPC_LOCK"]}), "privileged", ("securityContext.capabilities.add[0]",)),
    "capability of the baseline": (
        container(capabilities={"add": ["NET_BIND_SERVICE", "CHOWN"]}),
        "baseline",
        ("securityContext.capabilities.add[1]",),
    ),
    "capability that is allowed": (container(capabilities={"add": ["NET_BIND_SERVICE"]}), "restricted", ()),
    "all capabilities": (
        container(capabilities={"add": ["ALL"]}),
        "privileged",
        ("securityContext.capabilities.add[0]",),
    ),
    "SYS_ADMIN": (
        container(capabilities={"add": ["SYS_ADMIN"]}),
        "privileged",
        ("securityContext.capabilities.add[0]", "securityContext"),
    ),
    "nothing dropped": (container(capabilities={"drop": []}), "baseline", ("securityContext.capabilities.drop",)),
    "something dropped": (
        container(capabilities={"drop": ["NET_RAW"]}),
        "baseline",
        ("securityContext.capabilities.drop",),
    ),
    "all dropped": (container(capabilities={"drop": ["ALL", "NET_RAW"]}), "restricted", ()),
    "privileged": (container(privileged=True), "privileged", ("securityContext.privileged", "securityContext")),
    "not privileged": (container(privileged=False), "restricted", ()),
    "escalation": (container(allowPrivilegeEscalation=True), "baseline", ("securityContext.allowPrivilegeEscalation",)),
    "root": (container(**ROOT), "baseline", ("securityContext.runAsUser", "securityContext.runAsNonRoot")),
    "root in the pod": (pod(**ROOT), "baseline", ("podSecurityContext.runAsUser", "podSecurityContext.runAsNonRoot")),
    "perhaps root in the pod, not in the container": (
        {**pod(runAsNonRoot=False), **container(runAsNonRoot=True)},
        "baseline",
        ("podSecurityContext.runAsNonRoot",),
    ),
    "another user": (container(runAsUser=2000, runAsGroup=2000), "restricted", ()),
    "root that may lock memory": (
        container(**ROOT, capabilities={"add": ["IPC_LOCK"]}),
        "privileged",
        ("securityContext.runAsUser", "securityContext.runAsNonRoot", "securityContext.capabilities.add[0]"),
    ),
    "writable root": (container(readOnlyRootFilesystem=False), "restricted", ()),
    "no seccomp": (
        container(seccompProfile={"type": "Unconfined"}),
        "privileged",
        ("securityContext.seccompProfile.type",),
    ),
    "no seccomp in the pod": (
        pod(seccompProfile={"type": "Unconfined"}),
        "privileged",
        ("podSecurityContext.seccompProfile.type",),
    ),
    "own seccomp": (container(seccompProfile={"type": "Localhost", "localhostProfile": "p.json"}), "restricted", ()),
    "no AppArmor": (
        container(appArmorProfile={"type": "Unconfined"}),
        "privileged",
        ("securityContext.appArmorProfile.type",),
    ),
    "AppArmor": (pod(appArmorProfile={"type": "RuntimeDefault"}), "restricted", ()),
    "SELinux type": (
        container(seLinuxOptions={"type": "spc_t"}),
        "privileged",
        ("securityContext.seLinuxOptions.type",),
    ),
    "SELinux user and role": (
        pod(seLinuxOptions={"user": "u", "role": "r"}),
        "privileged",
        ("podSecurityContext.seLinuxOptions.user", "podSecurityContext.seLinuxOptions.role"),
    ),
    "SELinux level": (container(seLinuxOptions={"type": "container_t", "level": "s0:c1"}), "restricted", ()),
    "unsafe sysctl": (
        pod(sysctls=[{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}, {"name": "net.core.somaxconn", "value": "9"}]),
        "privileged",
        ("podSecurityContext.sysctls[1]",),
    ),
    "safe sysctl": (pod(sysctls=[{"name": "kernel.shm_rmid_forced", "value": "1"}]), "restricted", ()),
    "groups": (pod(fsGroup=0, supplementalGroups=[0, 5]), "restricted", ()),
    "host path": ({"volumes": [{"name": "v", "hostPath": {"path": "/data"}}]}, "privileged", ("volumes[0].hostPath",)),
    "NFS": (
        {"volumes": [{"name": "u", "emptyDir": {}}, {"name": "v", "nfs": {"server": "s", "path": "/p"}}]},
        "baseline",
        ("volumes[1].nfs",),
    ),
    "disk of a cloud": (
        {"volumes": [{"name": "v", "awsElasticBlockStore": {"volumeID": "m"}}]},
        "baseline",
        ("volumes[0].awsElasticBlockStore",),
    ),
    "volumes that are allowed": (
        {
            "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "csi": {"driver": "d"}},
                {"name": "d", "image": {"reference": "i:1"}},
            ]
        },
        "restricted",
        (),
    ),
}
"""What a stage's `pods` say: (fields, level, the fields that need more than `restricted`)."""
