"""Real trainings of two pods over gloo on a cluster, and what tests ask about them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import World, world
from tests.cluster.tools import S3, Kubectl, cannot, wait_until

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
BATCH = 32
STEPS = 120
"""Some 10 s of two ranks on one core each, where nothing else runs."""
EVERY_STEPS = 10


@dataclass(frozen=True)
class Trainings:
    """Creates and reads trainings in one namespace, whose output lies in S3."""

    place: World
    s3: S3
    image: str

    def start(
        self,
        name: str,
        *,
        nodes: int = 2,
        steps: int = STEPS,
        secret: str = "s3-credentials",
        policy: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        output: str | None = None,
        spec: dict[str, Any] | None = None,
        **pods: Any,
    ) -> str:
        """Apply a run of the stage train alone; `train`, `pods` and the rest of the `spec` are merged over its own.

        `output`: name of the run whose output it shares; None for one of its own.
        """
        runs = self.place.runs
        common = {
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "terminationGracePeriodSeconds": 60,
            "env": [{"name": "DIHT_PROGRESS_SECONDS", "value": "2"}],
            "volumes": runs.project["volumes"],
            "volumeMounts": runs.project["mounts"],
        }
        document: dict[str, Any] = {
            "data": {
                "sources": [{"name": "clips", "shards": ["/project/examples/data/train/00000.tar.gz"]}],
                "output": f"s3://{self.s3.bucket}/{self.folder(output or name)}",
            },
            "storage": [
                {
                    "prefix": f"s3://{self.s3.bucket}",
                    "endpointURL": self.s3.endpoint_url,
                    "region": "us-east-1",
                    "secretRef": {"name": secret},
                },
            ],
            "train": {
                "modelConfig": MODEL,
                "samples": steps * BATCH,
                "batchSize": BATCH,
                "precision": "fp32",
                "schedule": {"type": "Constant", "warmupSamples": 0},
                "distillation": {"mode": "Disabled"},
                "checkpoint": {"everySamples": EVERY_STEPS * BATCH},
                "numNodes": nodes,
                **(train or {}),
            },
            "pods": {**common, **pods},
            "failurePolicy": policy or {},
            **(spec or {}),
        }
        run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": document}
        runs.kubectl.create(run, runs.namespace)
        return name

    def folder(self, name: str) -> str:
        return f"faults/{self.place.namespace}/{name}"

    def read(self, key: str) -> str:
        return self.s3.client().get_object(Bucket=self.s3.bucket, Key=key)["Body"].read().decode()

    def stage_folder(self, name: str) -> str:
        """Where the training writes; a folder without content before it has begun."""
        runs = f"{self.folder(name)}/runs"
        try:
            latest = json.loads(self.read(f"{runs}/latest.json"))["folder"]
            return f"{self.folder(name)}/{json.loads(self.read(f'{runs}/{latest}/train.json'))['folder']}"
        except self.s3.client().exceptions.NoSuchKey:
            return f"{self.folder(name)}/train/none"

    def names(self, name: str, below: str) -> list[str]:
        """What lies below a folder of the training."""
        prefix = f"{self.stage_folder(name)}/{below}/"
        found = self.s3.client().list_objects_v2(Bucket=self.s3.bucket, Prefix=prefix).get("Contents", [])
        return [item["Key"].removeprefix(prefix) for item in found]

    def saved(self, name: str) -> int:
        """The step of the newest committed checkpoint; 0 before the first."""
        marked = [path.split("/")[0] for path in self.names(name, "checkpoints") if path.endswith("COMMITTED.json")]
        return max((int(folder.removeprefix("step-")) for folder in marked), default=0)

    def wait_for_checkpoint(self, name: str) -> int:
        return wait_until(lambda: self.saved(name), "a checkpoint", 240)

    def losses(self, name: str) -> dict[int, float]:
        """By step."""
        body = self.read(f"{self.stage_folder(name)}/metrics.jsonl")
        return {line["step"]: line["loss"] for line in map(json.loads, body.splitlines())}

    def resumed_at(self, name: str, attempt: int = 2) -> int:
        """The step after which an attempt went on, in its own words."""
        runs = self.place.runs
        selector = f"diht.dev/run={name},diht.dev/attempt={attempt},batch.kubernetes.io/job-completion-index=0"
        log = runs.kubectl("logs", "-n", runs.namespace, "-l", selector, "--tail=-1")
        found = re.search(r"train: resuming after step (\d+) of", log)
        assert found, log
        return int(found[1])

    def node_of(self, name: str, index: int) -> str:
        pods = wait_until(lambda: [p for p in self.place.runs.pods(name) if p["spec"].get("nodeName")], "its pods")
        labels = "batch.kubernetes.io/job-completion-index"
        return next(p["spec"]["nodeName"] for p in pods if p["metadata"]["labels"][labels] == str(index))


@contextlib.contextmanager
def opened(kubectl: Kubectl, image: str, s3: S3, folder: Path, *, own: bool) -> Iterator[Trainings]:
    """A namespace for trainings, with an operator of its own; `own`: the cluster runs on this machine."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its nodes and processes cannot be killed from here")
    with world(kubectl, image, folder) as place:
        s3.add_secret(place.namespace)
        yield Trainings(place, s3, image)


def node_to_lose(trainings: Trainings) -> int:
    """The node that does not carry S3, whose data would be lost with it."""
    s3_namespace = trainings.s3.endpoint_url.split(".")[1]
    [pod] = trainings.place.kubectl.json("get", "pods", "-n", s3_namespace)["items"]
    return 1 - int(pod["spec"]["nodeName"].removeprefix("node-"))


def check_end(trainings: Trainings, name: str, expected: dict[int, float]) -> None:
    """The same losses at each step that both have written down, above all the last."""
    found = trainings.losses(name)
    both = found.keys() & expected.keys()
    assert max(both) == STEPS
    assert {step: found[step] for step in both} == pytest.approx({step: expected[step] for step in both}, abs=1e-5)
