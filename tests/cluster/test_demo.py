"""The example for a cluster, whole and with the real programs: the same results as `diht run` on the same document."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import yaml

from tests.cluster.demo import document, start
from tests.cluster.operators import stages, world
from tests.cluster.tools import PROJECT, S3, Kubectl, cannot

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_example_gives_on_the_cluster_what_it_gives_on_a_laptop(
    kubectl: Kubectl, own: bool, recipe_image: str, s3_in_cluster: S3, tmp_path: Path
) -> None:
    if not own:
        cannot("the recipe's environment is mounted from this machine")
    with world(kubectl, recipe_image, tmp_path) as place:
        prefix = start(place.runs, s3_in_cluster)
        status = place.runs.wait_for("demo", "Complete", timeout_s=900)
        assert all(stage.get("restarts", 0) == 0 for stage in stages(status).values())
        assert sorted({pod["spec"]["nodeName"] for pod in place.runs.pods("demo")}) == ["node-0", "node-1"]
    local = document(s3_in_cluster, prefix, s3_in_cluster.outside_url)
    local["spec"]["data"]["output"] = str(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(local))
    keys = {
        "DIHT_STORAGE_0_ACCESS_KEY_ID": s3_in_cluster.access_key,
        "DIHT_STORAGE_0_SECRET_ACCESS_KEY": s3_in_cluster.secret_key,
    }
    subprocess.run(
        [sys.executable, "-m", "diht_k8s.cli", "run", str(tmp_path / "run.yaml")],
        check=True,
        cwd=PROJECT,
        env={**os.environ, **keys},
    )
    cluster = {
        stage_file(key.removeprefix(f"{prefix}/run/")): body
        for key, body in objects(s3_in_cluster, f"{prefix}/run/").items()
    }
    laptop = {
        stage_file(str(path.relative_to(tmp_path / "run"))): path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    assert kept(cluster) == kept(laptop) != {}
    assert labels(cluster) == labels(laptop) != {}
    ours, theirs = losses(cluster), losses(laptop)
    both = ours.keys() & theirs.keys()  # lines are written by the clock; the first and the last step always
    assert {1, 8} <= both
    assert {step: ours[step] for step in both} == pytest.approx({step: theirs[step] for step in both}, abs=1e-5)
    assert json.loads(cluster["evaluate/report.json"])["benchmarks"]


def stage_file(name: str) -> str:
    """The name without the digest of its stage's folder."""
    return re.sub(r"^(\w+)/[0-9a-f]{16}/", r"\1/", name)


def objects(s3: S3, prefix: str) -> dict[str, bytes]:
    client = s3.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key: client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() for key in keys}


def kept(files: dict[str, bytes]) -> dict[str, list[str]]:
    """Names of the kept samples' members by shard."""
    shards = {name: body for name, body in files.items() if name.startswith("filter/kept/")}
    return {name: tarfile.open(fileobj=io.BytesIO(body)).getnames() for name, body in sorted(shards.items())}


def labels(files: dict[str, bytes]) -> dict[str, Any]:
    tables = {name: body for name, body in files.items() if name.startswith("label/labels/")}
    return {name: parquet.read_table(io.BytesIO(body)).to_pydict() for name, body in sorted(tables.items())}


def losses(files: dict[str, bytes]) -> dict[int, float]:
    """By step."""
    return {line["step"]: line["loss"] for line in map(json.loads, files["train/metrics.jsonl"].decode().splitlines())}
