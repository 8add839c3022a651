"""A minimal run document and a way to change it, for tests."""

from __future__ import annotations

import copy
from typing import Any

from diht_k8s.api.run import DihtRun

MINIMAL: dict[str, Any] = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "a-run"},
    "spec": {
        "data": {
            "sources": [{"name": "web", "shards": ["s3://corpus/{00000..00009}.tar"]}],
            "output": "s3://corpus/runs/a",
        },
        "filter": {},
        "label": {},
        "train": {"model": "ViT-B-16", "samples": 1000, "batchSize": 8},
        "evaluate": {"benchmarks": [{"name": "flickr30k", "type": "Retrieval", "shards": ["s3://corpus/f/0.tar"]}]},
    },
}
TRAIN: dict[str, Any] = {
    "model": "ViT-B-32",
    "samples": 64,
    "batchSize": 8,
    "distillation": {"mode": "Disabled"},
}
"""A training without labels."""
REMOVE = object()


def run_over(shards: object, output: object, name: str = "a", **spec: Any) -> DihtRun:
    """A run of one source with these stages."""
    data = {"sources": [{"name": "a", "shards": [str(shards)]}], "output": str(output)}
    document = {**MINIMAL, "metadata": {"name": name}, "spec": {"data": data, **spec}}
    return DihtRun.model_validate(document)


def changed(**changes: Any) -> dict[str, Any]:
    """MINIMAL with `spec__train__samples=5` set; REMOVE removes the key."""
    document = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = document
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
        if value is REMOVE:
            del target[last]
        else:
            target[last] = value
    return document
