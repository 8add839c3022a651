"""`torchx run -s kubernetes` on the real cluster, in a namespace under Pod Security `restricted`, through the plugin's
entry point.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torchx.runner import Runner, get_runner
from torchx.specs import AppDef, AppState, Role
from torchx.specs.overlays import set_overlay

from tests.cluster.tools import S3, Kubectl, wait_until

pytestmark = pytest.mark.cluster
TORCHX = Path(sys.executable).with_name("torchx")
TINY_MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
Volume = dict[str, list[dict[str, Any]]]


@pytest.fixture
def torchx(kubeconfig: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as a user types it, in a folder of its own."""

    def call(*arguments: str, timeout_s: float = 540) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [TORCHX, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=timeout_s
        )

    return call


@pytest.fixture
def runner(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    with get_runner() as runner:
        yield runner


@pytest.fixture
def python_role(recipe_image: str, project_volume: Volume) -> Callable[..., Role]:
    """A role of a Python program with this project at hand."""

    def make(source: str, **fields: Any) -> Role:
        role = Role(name="main", image=recipe_image, entrypoint="python3", args=["-c", source], **fields)
        set_overlay(role, "kubernetes", "V1Pod", {"spec": {"volumes": project_volume["volumes"]}})
        set_overlay(role, "kubernetes", "V1Container", {"volumeMounts": project_volume["mounts"]})
        return role

    return make


@pytest.fixture
def submit(runner: Runner, namespace: str) -> Callable[..., str]:
    """Submits a role; the application's handle."""

    def run(role: Role, **cfg: Any) -> str:
        return runner.run(AppDef("Test_App.1", roles=[role]), "kubernetes", {"namespace": namespace, **cfg})

    return run


def ended(runner: Runner, handle: str, timeout_s: float = 120) -> AppState:
    def state() -> AppState | None:
        status = runner.status(handle)
        assert status, f"{handle} is gone"
        return status.state if status.state in (AppState.SUCCEEDED, AppState.FAILED, AppState.CANCELLED) else None

    return wait_until(state, f"the end of {handle}", timeout_s)


def log_of(runner: Runner, handle: str, replica: int = 0, **options: Any) -> list[str]:
    return [line.rstrip("\n") for line in runner.log_lines(handle, "main", replica, **options)]


def run_document(image: str, volume: Volume, s3: S3, folder: str, secret: str) -> dict[str, Any]:
    """A run that trains a tiny model on one of the demo's shards; results go to S3 in the cluster."""
    return {
        "apiVersion": "diht.dev/v1alpha1",
        "kind": "DihtRun",
        "metadata": {"name": "tiny"},
        "spec": {
            "data": {
                "sources": [{"name": "clips", "shards": ["/project/examples/data/train/00000.tar.gz"]}],
                "output": f"s3://{s3.bucket}/{folder}",
            },
            "storage": [
                {
                    "prefix": f"s3://{s3.bucket}",
                    "endpointURL": s3.endpoint_url,
                    "region": "us-east-1",
                    "secretRef": {"name": secret},
                },
            ],
            "train": {
                "modelConfig": TINY_MODEL,
                "samples": 64,
                "batchSize": 16,
                "precision": "fp32",
                "schedule": {"type": "Cosine", "warmupSamples": 0},
                "distillation": {"mode": "Disabled"},
            },
            "pods": {
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "volumes": volume["volumes"],
                "volumeMounts": volume["mounts"],
                "terminationGracePeriodSeconds": 30,
            },
        },
    }


@pytest.mark.timeout(600)
def test_stage_trains_as_a_gang_from_the_literal_command_and_its_status_and_log_are_shown(
    torchx: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    namespace: str,
    recipe_image: str,
    project_volume: Volume,
    s3_in_cluster: S3,
) -> None:
    secret = s3_in_cluster.add_secret(namespace)
    document = run_document(recipe_image, project_volume, s3_in_cluster, f"torchx/{namespace}", secret)
    (tmp_path / "run.json").write_text(json.dumps(document))
    done = torchx(
        "run",
        "-s",
        "kubernetes",
        "--wait",
        "-cfg",
        f"namespace={namespace}",
        "components.train",
        "-j",
        "2x1",
        "--",
        "--run",
        "run.json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    handle = re.search(r"kubernetes://torchx/\S+", done.stdout)
    assert handle
    log = torchx("log", f"{handle[0]}/train/0").stdout
    assert '"diht":"progress"' in log
    status = torchx("status", handle[0]).stdout
    assert "State: SUCCEEDED" in status
    objects = s3_in_cluster.client().list_objects_v2(Bucket=s3_in_cluster.bucket, Prefix=f"torchx/{namespace}/train/")
    names = {item["Key"].rsplit("/", 1)[-1] for item in objects["Contents"]}
    assert {"COMMITTED.json", "open_clip_config.json", "metrics.jsonl"} <= names


MEET = """
import os, socket, time
from diht_k8s.runtime.preflight import wait_for_hosts
from diht_k8s.runtime.signals import StopFlag

me, hosts = int(os.environ["TORCHX_REPLICA_ID"]), os.environ["DIHT_PEER_HOSTS"]
wait_for_hosts([hosts.replace("*", str(index)) for index in range(2)], stop=StopFlag())
if me == 0:
    with socket.create_server(("", 29500)) as server:
        server.settimeout(60)
        peer, _ = server.accept()
        print("met", peer.recv(9).decode())
else:
    for _ in range(600):
        try:
            with socket.create_connection((os.environ["TORCHX_RANK0_HOST"], 29500), 5) as peer:
                peer.send(b"peer 1")
                break
        except OSError:
            time.sleep(0.1)
    else:
        raise SystemExit("nobody listens")
"""


@pytest.mark.parametrize("starts", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_gang_connects_at_each_of_many_starts_in_a_row(
    runner: Runner, submit: Callable[..., str], python_role: Callable[..., Role], starts: int
) -> None:
    for _ in range(starts):
        handle = submit(python_role(MEET, num_replicas=2, port_map={"meet": 29500}))
        assert ended(runner, handle) is AppState.SUCCEEDED, log_of(runner, handle)
        assert log_of(runner, handle) == ["met peer 1"]


USER_ERROR = """
import os, time
from diht_k8s.api.errors import UserError
from diht_k8s.runtime.stage import exit_code_of

def work():
    if os.environ["TORCHX_REPLICA_ID"] == "1":
        raise UserError("train.lr is negative: give a positive number")
    time.sleep(300)

raise SystemExit(exit_code_of(work))
"""


def test_user_error_ends_the_gang_at_once_in_spite_of_retries_and_its_words_are_in_the_status(
    runner: Runner, kubectl: Kubectl, namespace: str, submit: Callable[..., str], python_role: Callable[..., Role]
) -> None:
    role = python_role(USER_ERROR, num_replicas=2, max_retries=3)
    set_overlay(role, "kubernetes", "V1Pod", {"spec": {"terminationGracePeriodSeconds": 1}})
    handle = submit(role)
    assert ended(runner, handle) is AppState.FAILED
    status = runner.status(handle)
    assert status
    assert re.search(r"-1-\w+ ended with exit code 64 .*train.lr is negative: give a positive number", status.msg)
    assert status.num_restarts == 0
    (job,) = kubectl.json("get", "jobs", "--namespace", namespace)["items"]
    reasons = {condition["type"]: condition["reason"] for condition in job["status"]["conditions"]}
    assert reasons["Failed"] == "PodFailurePolicy"
    assert job["status"]["failed"] == 2


def test_stock_ddp_component_connects_on_the_plugin(
    torchx: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    namespace: str,
    recipe_image: str,
    project_volume: Volume,
) -> None:
    overlay = {
        "spec": {
            "volumes": project_volume["volumes"],
            "__join__:containers:name": [
                {
                    "name": "torch-reduce",
                    "volumeMounts": [
                        {"name": "dshm", "mountPath": "/dev/shm"},
                        {"name": "tmp", "mountPath": "/tmp"},
                        *project_volume["mounts"],
                    ],
                }
            ],
        },
    }
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    done = torchx(
        "run",
        "-s",
        "kubernetes",
        "--wait",
        "-cfg",
        f"namespace={namespace},image_pull_policy=IfNotPresent",
        "dist.ddp",
        "-j",
        "2x1",
        "--image",
        recipe_image,
        "--cpu",
        "0",
        "--memMB",
        "0",
        "--metadata",
        "kubernetes=overlay.json",
        "-m",
        "tests.cluster.etc.torch_reduce",
    )
    handle = re.search(r"kubernetes://torchx/\S+", done.stdout)
    assert handle, done.stderr
    assert done.returncode == 0, torchx("log", f"{handle[0]}/torch_reduce").stdout + done.stderr
    assert "rank 1 of 2: sum 3" in torchx("log", f"{handle[0]}/torch_reduce/1").stdout
    assert "rank 0 of 2: sum 3" in torchx("log", f"{handle[0]}/torch_reduce/0").stdout


def test_cancelled_job_stays_for_inspection_and_a_deleted_one_is_gone(
    torchx: Callable[..., subprocess.CompletedProcess[str]],
    runner: Runner,
    kubectl: Kubectl,
    namespace: str,
    submit: Callable[..., str],
    python_role: Callable[..., Role],
) -> None:
    role = python_role("import time; print('started', flush=True); time.sleep(300)", num_replicas=2, port_map={"a": 1})
    set_overlay(role, "kubernetes", "V1Pod", {"spec": {"terminationGracePeriodSeconds": 1}})
    handle = submit(role)
    wait_until(lambda: (status := runner.status(handle)) and status.state is AppState.RUNNING, "the start")
    assert f"{handle}  Test_App.1  RUNNING" in re.sub(
        " +", "  ", torchx("list", "-s", "kubernetes", "-cfg", f"namespace={namespace}").stdout
    )
    assert torchx("cancel", handle).returncode == 0
    assert ended(runner, handle) is AppState.CANCELLED
    assert torchx("cancel", handle).returncode == 0
    described = runner.describe(handle)
    assert described
    assert [(item.name, item.num_replicas, item.entrypoint) for item in described.roles] == [("main", 2, "python3")]
    assert torchx("delete", handle).returncode == 0
    assert runner.status(handle) is None
    assert "not exist" in (found := torchx("status", handle)).stdout + found.stderr or found.returncode != 0
    wait_until(
        lambda: not kubectl.json("get", "jobs,services,pods", "--namespace", namespace)["items"], "that nothing is left"
    )
