"""Checks of a node before it starts any rank: it refuses a batch of fewer pairs than ranks and a gang without a node 0,
and waits for the other nodes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import RetryableError, UserError
from diht_k8s.api.run import Stage
from diht_k8s.data.lease import Owner
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import launcher
from diht_k8s.runtime.progress import Reporter
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.train.stage import execute
from tests.folders import flat

FEW = r"train.batchSize must be at least 2 and numNodes x processesPerNode, .* \({} pairs, {} processes\)"


@pytest.mark.parametrize(
    ("batch", "nodes", "processes", "message"),
    [
        pytest.param(4, 5, 1, FEW.format(4, 5), id="more nodes than pairs"),
        pytest.param(7, 2, 4, FEW.format(7, 8), id="more processes than pairs"),
        pytest.param(32, 2, 1, "DIHT_MASTER is not set: a gang of several nodes", id="two nodes without a name"),
    ],
)
def test_gang_when_its_shape_is_wrong_then_refused_before_ranks_start(
    monkeypatch: pytest.MonkeyPatch, batch: int, nodes: int, processes: int, message: str
) -> None:
    monkeypatch.setenv("DIHT_NUM_NODES", str(nodes))
    for name in ("DIHT_MASTER", "DIHT_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    context = context_of({"batchSize": batch, "processesPerNode": processes}, "s3://bucket/out")
    with pytest.raises(UserError, match=message):
        execute(context)


def context_of(train: dict[str, Any], output: str, **spec: Any) -> Any:
    train = {"model": "ViT-B-32", "samples": 64, "batchSize": 8, "distillation": {"mode": "Disabled"}, **train}
    data = {"sources": [{"name": "web", "shards": ["s3://bucket/0.tar"]}], "output": output}
    spec = {"data": data, "train": train, **spec}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}, "spec": spec}
    parts = {
        "config": {},
        "progress": Reporter(Stage.TRAIN),
        "stop": StopFlag(),
        "layout": flat(output),
        "owner": Owner("a"),
        "step": "",
    }
    return cast("Any", SimpleNamespace(run=load(json.dumps(run), name="run"), storage=Storage(), **parts))


@pytest.mark.parametrize(("policy", "waits_s"), [({}, 660), ({"schedulingTimeoutSeconds": 3600}, 3660)])
def test_gang_waits_for_its_peers_for_longer_than_the_operator_lets_it_be_without_all_its_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: dict[str, Any], waits_s: float
) -> None:
    waits = list[float]()

    def gives_up(hosts: tuple[str, ...], *, stop: StopFlag, timeout_s: float) -> None:
        waits.append(timeout_s)
        raise RetryableError("no address")

    gang = {"DIHT_NUM_NODES": "2", "DIHT_MASTER": "a-0.a", "DIHT_PEER_HOSTS": "a-*.a"}
    monkeypatch.setattr(os, "environ", {**os.environ, **gang})
    monkeypatch.setattr(launcher, "wait_for_hosts", gives_up)
    with pytest.raises(RetryableError):
        execute(context_of({"numNodes": 2}, str(tmp_path), failurePolicy=policy))
    assert waits == [waits_s]
