"""The applications whose manifests are kept in `golden/`: `python -m tests.unit.launch.apps` writes them again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torchx.components.dist import torchrun
from torchx.specs import AppDef, BindMount, DeviceMount, Resource, RetryPolicy, Role, VolumeMount, macros
from torchx.specs.overlays import DEL, JOIN, set_overlay

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.launch.render import JobConfig, render
from diht_k8s.launch.stages import stage_app
from tests.unit.api.documents import changed

GOLDEN = Path(__file__).with_name("golden")
OWNER = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "name": "a-run", "uid": "u-1", "controller": True}
LABELS = {
    "app.kubernetes.io/managed-by": "diht-operator",
    "diht.dev/run": "a-run",
    "diht.dev/stage": "train",
    "diht.dev/attempt": "2",
}
PODS = {
    "image": "registry.example/recipe:1",
    "imagePullPolicy": "IfNotPresent",
    "imagePullSecrets": ["registry"],
    "queueName": "research",
    "resources": {"cpu": "7500m", "memory": "64Gi", "nvidia.com/gpu": 8},
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "env": [
        {"name": "NOTE", "value": "costs $5, or $(HOME)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    "labels": {"team": "vision"},
    "shmSize": "8Gi",
    "terminationGracePeriodSeconds": 120,
}


def run(**changes: Any) -> DihtRun:
    return DihtRun.model_validate(changed(**changes))


def train_gang() -> list[dict[str, Any]]:
    """As the controller asks for it: names, labels, owner, every field of `pods`, credentials of a storage rule."""
    document = run(
        spec__train__numNodes=2,
        spec__pods=PODS,
        spec__storage=[{"prefix": "s3://corpus", "secretRef": {"name": "keys"}}],
    )
    config = JobConfig(namespace="team", end_on_disruption=True)
    return render(stage_app(document, Stage.TRAIN), config, "a-run-train-2", labels=LABELS, owner=OWNER)


def training_waits() -> list[dict[str, Any]]:
    """For another run: one small pod that asks for no GPU, and for none of the places that have some."""
    gpus = {
        "resources": {"cpu": "96", "memory": "512Mi", "nvidia.com/gpu": 8},
        "nodeSelector": {"pool": "h100"},
        "topology": {"required": "rack"},
        "hostNetwork": True,
        "shmSize": "64Gi",
        "runtimeClassName": "nvidia",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "env": [{"name": "AWS_CA_BUNDLE", "value": "/data/ca.pem"}],
    }
    document = run(spec__train__numNodes=2, spec__pods={**PODS, "shmSize": None}, spec__train__pods=gpus)
    labels = {**LABELS, "diht.dev/stage": "train-wait"}
    app = stage_app(document, Stage.TRAIN, step="wait")
    return render(app, JobConfig(namespace="team"), "a-run-wait-2", labels=labels, owner=OWNER)


def on_a_fabric() -> list[dict[str, Any]]:
    """InfiniBand on the nodes' network: devices, locked memory, port and DNS."""
    pods = {
        "image": "recipe:1",
        "hostNetwork": True,
        "resources": {"nvidia.com/gpu": 8, "rdma/hca": 8},
        "securityContext": {"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["IPC_LOCK"]}},
        "podSecurityContext": {"supplementalGroups": [109]},
        "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}],
    }
    return render(
        stage_app(run(spec__train__numNodes=2, spec__train__pods=pods), Stage.TRAIN), JobConfig(), "a-run-train-1"
    )


def filter_workers() -> list[dict[str, Any]]:
    """Independent workers: no Service, a lost one is replaced."""
    document = run(spec__filter__workers=3, spec__pods={"image": "recipe:1"})
    return render(stage_app(document, Stage.FILTER), JobConfig(), "a-run-filter-1")


def stock_torchrun() -> list[dict[str, Any]]:
    """TorchX's own component: bash, the macro of replica 0, retries; all options."""
    app = torchrun(
        "--lr",
        "$LR",
        m="jobs.train_vit",
        j="2x4",
        image="app:1",
        max_retries=3,
        gpu=4,
        memMB=4096,
        env={"LOGLEVEL": "INFO"},
    )
    config = JobConfig(
        namespace="team",
        queue="q",
        service_account="sa",
        priority_class="high",
        image_pull_policy="Always",
        image_pull_secrets=("one", "two"),
        ttl_seconds_after_finished=60,
        active_deadline_seconds=3600,
        reserved_millicpu=100,
        reserved_memmb=1024,
    )
    return render(app, config, "train-vit-x")


def several_roles() -> list[dict[str, Any]]:
    """Several roles in one application: macros, mounts of each kind, devices, capabilities, ports, a field as
    variable, overlays.
    """
    trainer = Role(
        name="Trainer_A",
        image="app:1",
        entrypoint="sh",
        num_replicas=2,
        port_map={"Metrics_Port": 8081},
        args=["-c", f"echo {macros.app_id} {macros.replica_id} $${{{macros.rank0_env}}} $$HOME $$(date)"],
        env={"NODE": "[FIELD_PATH]spec.nodeName", "INDEX": macros.replica_id, "RANK0": macros.rank0_env},
        resource=Resource(
            cpu=2,
            gpu=0,
            memMB=2048,
            devices={"vpc.amazonaws.com/efa": 1},
            capabilities={"node.kubernetes.io/instance-type": "big"},
        ),
        mounts=[
            VolumeMount("claim", "/claim", read_only=True),
            VolumeMount("secret/keys", "/keys"),
            VolumeMount("configmap/conf", "/conf"),
            BindMount("/host", "/host"),
        ],
    )
    set_overlay(
        trainer,
        "kubernetes",
        "V1Pod",
        {
            "metadata": {
                "annotations": {"note": f"app {macros.app_id}"},
                "labels": {"app.kubernetes.io/instance": "mine"},
            },
            "spec": {
                "securityContext": {DEL("fsGroup"): None},
                JOIN("containers", on="name"): [{"name": "side", "image": "side:1"}],
            },
        },
    )
    set_overlay(trainer, "kubernetes", "V1Container", {"env": [{"name": "HOME", "value": "/claim"}]})
    set_overlay(trainer, "kubernetes", "V1Job", {"spec": {"suspend": True}})
    server = Role(
        name="server",
        image="app:2",
        entrypoint="serve",
        retry_policy=RetryPolicy.REPLICA,
        max_retries=2,
        mounts=[DeviceMount("/dev/fuse", "/dev/fuse", permissions="r")],
    )
    return render(AppDef("Two Roles", roles=[trainer, server]), JobConfig(efa_device_count=4), "two-x")


CASES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    case.__name__: case
    for case in (
        train_gang,
        training_waits,
        on_a_fabric,
        filter_workers,
        stock_torchrun,
        several_roles,
    )
}


def manifest(case: str) -> str:
    """The manifest of a case."""
    return yaml.safe_dump_all(CASES[case](), sort_keys=False, width=120)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        (GOLDEN / f"{name}.yaml").write_text(manifest(name))
