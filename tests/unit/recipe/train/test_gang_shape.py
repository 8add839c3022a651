"""What a node refuses before it starts any rank: a batch that the ranks cannot divide, a gang without a node 0."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.recipe.train.stage import execute

DIVIDED = r"train.batchSize {} must be a multiple of the {} processes, at least 2 pairs for each"


@pytest.mark.parametrize(
    ("batch", "nodes", "processes", "message"),
    [
        pytest.param(32, 3, 1, DIVIDED.format(32, 3), id="not a multiple"),
        pytest.param(4, 2, 2, DIVIDED.format(4, 4), id="one pair for each"),
        pytest.param(32, 2, 1, "DIHT_MASTER is not set: a gang of several nodes", id="two nodes without a name"),
    ],
)
def test_gang_when_its_shape_is_wrong_then_refused_before_ranks_start(
    monkeypatch: pytest.MonkeyPatch, batch: int, nodes: int, processes: int, message: str
) -> None:
    monkeypatch.setenv("DIHT_NUM_NODES", str(nodes))
    for name in ("DIHT_MASTER", "DIHT_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    train = {
        "model": "ViT-B-32", "samples": 64, "batchSize": batch, "processesPerNode": processes,
        "distillation": {"mode": "Disabled"},
    }  # fmt: skip
    data = {"sources": [{"name": "web", "shards": ["s3://bucket/0.tar"]}], "output": "s3://bucket/out"}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}, "spec": {"data": data, "train": train}}  # fmt: skip
    context = cast("Any", SimpleNamespace(run=load(json.dumps(run), name="run")))
    with pytest.raises(UserError, match=message):
        execute(context)
