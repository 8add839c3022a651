"""Runs as the operator knows them, for tests."""

from __future__ import annotations

from typing import Any

from diht_k8s.controller.cache.runs import CachedRun, cached_run
from tests.unit.controller.documents import NOW, at


def run(
    name: str = "r",
    *,
    namespace: str = "n",
    uid: str = "",
    version: int = 1,
    created: str = "2026-01-01T00:00:00Z",
    output: str = "s3://corpus/o",
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> CachedRun:
    metadata = {
        "namespace": namespace,
        "name": name,
        "uid": uid or f"uid-{namespace}-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": created,
        "generation": 1,
        "managedFields": [{"huge": "x"}],
    }
    sources = [{"name": "web", "shards": ["s3://corpus/a.tar"]}]
    body = {"data": {"sources": sources, "output": output}, "filter": {}, **spec}
    return cached_run({"metadata": metadata, "spec": body, "status": status})


ENDED = {
    "conditions": [
        {"type": "Failed", "status": "True", "reason": "BadData", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ]
}


def ended_run(name: str = "r", ended: float = NOW, kind: str = "Complete", **more: Any) -> CachedRun:
    """A run that has ended, with nothing left to do."""
    condition = {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": at(ended)}
    found = {"conditions": [condition], "completionTime": at(ended), "observedGeneration": 1}
    return run(name, status=found, **more)
