"""Runs in a queue of Kueue, on fake nodes with GPUs: one waits, says so, and starts when the other has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.operators import Runs, world
from tests.cluster.tools import Kubectl, manifest, wait_until

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}


def test_two_runs_on_a_quota_for_one_go_one_after_the_other(
    kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path) as place:
        runs = place.runs
        kubectl.apply(manifest("queue.yaml", namespace=place.namespace))
        pods = {
            "image": "none",
            "queueName": "gpus",
            "resources": {"cpu": 1, "memory": "1Gi", "nvidia.com/gpu": 3},
        }
        data = {"sources": [{"name": "web", "shards": ["s3://none/0.tar"]}], "output": "s3://none/runs"}
        spec = {**ONE, "filter": {"workers": 2}, "data": data}  # its pods mount nothing, and nothing runs in them
        for name in ("first", "second"):
            runs.apply(name, **spec, pods=pods)
        for name in ("first", "second"):
            runs.wait_for(name, "Complete", timeout_s=120)

        def times() -> list[dict[str, str]] | None:
            found = kubectl.json("get", "workloads.kueue.x-k8s.io", "-n", place.namespace)["items"]
            conditions = [{c["type"]: c["lastTransitionTime"] for c in each["status"]["conditions"]} for each in found]
            return conditions if all("Finished" in each for each in conditions) else None

        earlier, later = sorted(
            wait_until(times, "both workloads have finished"), key=lambda conditions: conditions["Finished"]
        )
        assert later["Admitted"] >= earlier["Finished"], "both held pods at once"
        runs.apply("big", **spec, pods={**pods, "resources": {"nvidia.com/gpu": 5}})
        wait_until(lambda: "insufficient quota for nvidia.com/gpu" in waits(runs, "big"), "why the run waits", 30)
        assert runs.condition("big", "Progressing")["reason"] == "Queued"
        kubectl("delete", "dihtruns", "--all", "-n", place.namespace)
        # Kueue's finalizers go with Kueue there to take them off, else the namespace would stay
        wait_until(
            lambda: not kubectl.json("get", "workloads.kueue.x-k8s.io", "-n", place.namespace)["items"],
            "the workloads' end",
        )


def waits(runs: Runs, name: str) -> str:
    """What the status of a run says of its queue."""
    return runs.status(name).get("queue", {}).get("reason", "")
