"""Checks of a pod before it starts its ranks: what was measured, and who tells of a node that another one may
replace."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import RetryableError, UserError
from diht_k8s.api.pods import NODE_VARIABLE
from diht_k8s.api.reports import Cause, NodeResult
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.stage import exit_code_of
from diht_k8s.stages.train.stage import check_pod
from tests.folders import flat

HOST = socket.gethostname()
GPUS = 99
"""More than a machine has."""


def context(folder: Path, **pods: Any) -> Any:
    train = {"model": "ViT-B-32", "samples": 64, "batchSize": 8, "distillation": {"mode": "Disabled"}}
    data = {"sources": [{"name": "web", "shards": ["s3://bucket/0.tar"]}], "output": str(folder)}
    spec = {"data": data, "train": train, "pods": pods}
    run = load(
        json.dumps({"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}, "spec": spec}),
        name="run",
    )
    return cast("Any", SimpleNamespace(run=run, storage=Storage(), layout=flat(folder)))


@pytest.fixture(autouse=True)
def _in_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv(NODE_VARIABLE, "gpu-9")


def test_pod_that_has_what_it_needs_tells_what_it_measured(tmp_path: Path) -> None:
    found = check_pod(context(tmp_path), 1)
    assert (found.node, found.pod, found.problem) == ("gpu-9", HOST, "")
    assert found.output_seconds is not None
    assert 0 < found.output_seconds < 60
    assert found.shared_memory_mib
    assert list((tmp_path / "train").iterdir()) == []


def test_machine_outside_a_cluster_is_its_own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NODE_VARIABLE)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    found = check_pod(context(tmp_path, resources={"nvidia.com/gpu": GPUS}), 1)
    assert (found.node, found.pod, found.shared_memory_mib) == (HOST, HOST, None)


def test_fault_of_the_node_is_named_with_it_in_the_cause_of_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "cause"))
    given = context(tmp_path, resources={"nvidia.com/gpu": GPUS})
    assert exit_code_of(lambda: check_pod(given, 1)) == 75
    cause = Cause.model_validate_json((tmp_path / "cause").read_text())
    [node] = cause.preflight
    assert (node.node, node.pod, node.problem) == ("gpu-9", HOST, cause.message)
    assert f"pod {HOST} sees " in node.problem


def test_wrong_run_document_is_no_fault_of_the_node(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"processesPerNode {GPUS + 1} is more than the {GPUS} GPUs") as raised:
        check_pod(context(tmp_path, resources={"nvidia.com/gpu": GPUS}), GPUS + 1)
    assert dict(raised.value.details) == {}


def test_long_problem_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> float:
        raise RetryableError("x" * 999)

    monkeypatch.setattr("diht_k8s.stages.train.stage.check_output", fails)
    with pytest.raises(RetryableError) as raised:
        check_pod(context(tmp_path), 1)
    assert len(raised.value.details["preflight"][0].problem) == 256


@pytest.mark.parametrize(
    ("node", "pod", "words"),
    [("gpu-9", "a-train-1-3", "gpu-9 (pod a-train-1-3)"), ("laptop", "laptop", "laptop"), ("gpu-9", "", "gpu-9")],
)
def test_node_is_called_by_its_own_name_and_its_pods(node: str, pod: str, words: str) -> None:
    assert NodeResult(node=node, pod=pod).label == words
