"""`torchx run -s kubernetes` on the real cluster, in a namespace under Pod Security `restricted`, through the plugin's entry point."""

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
from torchx.specs import AppDef, AppState, Role, macros
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

    def call(*arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
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
                {"prefix": f"s3://{s3.bucket}", "endpointURL": s3.endpoint_url, "region": "us-east-1",
                 "secretRef": {"name": secret}},
            ],
            "train": {
                "modelConfig": TINY_MODEL, "samples": 64, "batchSize": 16, "precision": "fp32",
                "schedule": {"type": "Cosine", "warmupSamples": 0}, "distillation": {"mode": "Disabled"},
            },
            "pods": {
                "image": image, "imagePullPolicy": "IfNotPresent",
                "volumes": volume["volumes"], "volumeMounts": volume["mounts"],
                "terminationGracePeriodSeconds": 30,
            },
        },
    }  # fmt: skip


def test_stage_trains_as_a_gang_from_the_literal_command_and_its_status_and_log_are_told(
    torchx: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, namespace: str, recipe_image: str,
    project_volume: Volume, s3_in_cluster: S3,
) -> None:  # fmt: skip
    secret = s3_in_cluster.add_secret(namespace)
    document = run_document(recipe_image, project_volume, s3_in_cluster, f"torchx/{namespace}", secret)
    (tmp_path / "run.json").write_text(json.dumps(document))
    done = torchx(
        "run", "-s", "kubernetes", "--wait", "-cfg", f"namespace={namespace}",
        "components.train", "-j", "2x1", "--", "--run", "run.json",
    )  # fmt: skip
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
