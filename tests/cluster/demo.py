"""The example for a cluster, started in a namespace of the tests with the recipe's image of the tests."""

from __future__ import annotations

from typing import Any

import yaml

from tests.cluster.operators import Runs
from tests.cluster.tools import PROJECT, S3

SHARDS = ("train/00000.tar.gz", "train/00001.tar.gz", "heldout/00000.tar.gz")


def document(s3: S3, prefix: str, endpoint_url: str) -> dict[str, Any]:
    """The example, in the tests' S3."""
    text = (PROJECT / "examples/demo-cluster.yaml").read_text()
    text = text.replace("s3://diht/demo", f"s3://{s3.bucket}/{prefix}").replace("http://s3.s3.svc:8333", endpoint_url)
    return yaml.safe_load(text)


def start(runs: Runs, s3: S3) -> str:
    """Uploads the shards, makes the Secret and applies the run `demo`; returns the prefix of all that it reads and
    writes.
    """
    prefix = f"demo-{runs.namespace}"
    client = s3.client()
    for name in SHARDS:
        client.upload_file(str(PROJECT / "examples/data" / name), s3.bucket, f"{prefix}/{name}")
    s3.add_secret(runs.namespace)
    run = document(s3, prefix, s3.endpoint_url)
    run["spec"]["pods"] = {
        "image": runs.image,
        "volumes": runs.project["volumes"],
        "volumeMounts": runs.project["mounts"],
    }
    runs.kubectl.create(run, runs.namespace)
    return prefix
