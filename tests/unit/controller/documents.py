"""Jobs and pods as the API server sends them, cut to what matters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

RUN_UID = "run-uid"
NOW = 1_800_000_000.0


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    stage: str = "train",
    attempt: int = 1,
    *,
    name: str = "",
    uid: str = "",
    size: int = 2,
    conditions: dict[str, str] | None = None,
    created: float = NOW - 100,
    deleted: bool = False,
    suspended: bool = False,
    owner: str = RUN_UID,
    labels: dict[str, str] | None = None,
    version: int = 1,
) -> dict[str, Any]:
    name = name or f"r-{stage}-{attempt}"
    metadata = {
        "namespace": "n",
        "name": name,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": at(created),
        "labels": {
            "diht.dev/run": "r",
            "diht.dev/stage": stage,
            "diht.dev/attempt": str(attempt),
            **(labels or {}),
        },
        "ownerReferences": [{"kind": "DihtRun", "name": "r", "uid": owner, "controller": True}],
        **({"deletionTimestamp": at(NOW)} if deleted else {}),
    }
    found = [{"type": kind, "status": "True", "reason": reason} for kind, reason in (conditions or {}).items()]
    return {
        "metadata": metadata,
        "spec": {"parallelism": size, "suspend": suspended},
        "status": {"conditions": found},
    }


def pod(
    index: int = 0,
    stage: str = "train",
    attempt: int = 1,
    *,
    phase: str = "Running",
    job_uid: str = "",
    ready: bool | None = None,
    ready_since: float = NOW - 90,
    deleted: float | None = None,
    conditions: list[dict[str, Any]] | None = None,
    state: dict[str, Any] | None = None,
    reason: str = "",
    node: str = "node-0",
    created: float = NOW - 100,
) -> dict[str, Any]:
    name = f"r-{stage}-{attempt}-{index}"
    running = {"running": {"startedAt": at(created + 1)}} if phase == "Running" else {}
    ready = phase == "Running" if ready is None else ready
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": at(created),
            "labels": {
                "diht.dev/run": "r",
                "diht.dev/stage": stage,
                "diht.dev/attempt": str(attempt),
                "batch.kubernetes.io/job-completion-index": str(index),
            },
            "ownerReferences": [
                {
                    "kind": "Job",
                    "name": f"r-{stage.removeprefix('label-')}-{attempt}",
                    "uid": job_uid or f"uid-r-{stage}-{attempt}",
                    "controller": True,
                }
            ],
            **({"deletionTimestamp": at(deleted)} if deleted is not None else {}),
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": phase,
            **({"reason": reason} if reason else {}),
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": at(ready_since)},
                *(conditions or []),
            ],
            "containerStatuses": [{"name": "train", "state": state if state is not None else running}],
        },
    }


def ended(code: int, *, reason: str = "Error", message: str = "", finished: float = NOW - 10) -> dict[str, Any]:
    times = {"startedAt": at(finished - 5), "finishedAt": at(finished)}
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}


def failed_pod(index: int, code: int, *, finished: float = NOW - 10, **more: Any) -> dict[str, Any]:
    words = {key: more.pop(key) for key in ("message",) if key in more}
    why = more.pop("why", "Error")
    return pod(index, phase="Failed", state=ended(code, finished=finished, reason=why, **words), **more)


DISRUPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
NO_NODE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}]
