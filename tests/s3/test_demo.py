"""The demo, whole and with the real programs, on each object store: what it gives from disk to disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from safetensors.torch import load

from diht_k8s.api.data import StorageRule
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from tests.folders import located
from tests.s3.server import S3

pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1800)]
PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT / "examples/data"
PLACES = {"examples", "references", "templates_from", "class_names_from", "own_captions"}
"""Parts of a benchmark's values that name where things lie."""


def run(folder: Path, base: str, rules: list[dict[str, Any]]) -> str:
    """Run the demo with its data and output below a place; the URI of its output."""
    text = (PROJECT / "examples/demo.yaml").read_text().replace("runs/demo", f"{base}/run")
    document = yaml.safe_load(text.replace("examples/data", f"{base}/data"))
    document["spec"]["storage"] = rules
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "diht_k8s.cli", "run", str(folder / "run.yaml")]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return f"{base}/run"


@pytest.fixture(scope="module")
def from_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(DATA, folder / "data")
    return contents(Storage(), run(folder, str(folder), []))


def contents(storage: Storage, output: str) -> dict[str, Any]:
    """What the stages left that does not say where or when: kept tars by the byte, tables, tensors, losses, values."""
    found: dict[str, Any] = {}
    layout = located(output, storage)
    for stage in Stage:
        base = layout.stage(stage)
        for name in storage.files(base):
            key, suffix = f"{stage.value}/{name}", name.rpartition(".")[2]
            if suffix == "tar":
                found[key] = storage.read_bytes(f"{base}/{name}")
            elif suffix == "parquet":
                rows = parquet.read_table(io.BytesIO(storage.read_bytes(f"{base}/{name}"))).to_pydict()
                place = output.removesuffix("run")
                found[key] = rows | {"shard": [str(each).removeprefix(place) for each in rows.get("shard", [])]}
            elif suffix == "safetensors" and "checkpoints" not in name:
                found[key] = load(storage.read_bytes(f"{base}/{name}"))
    lines = storage.read_text(f"{layout.stage(Stage.TRAIN)}/metrics.jsonl").splitlines()
    found["losses"] = {line["step"]: line["loss"] for line in map(json.loads, lines)}
    report = json.loads(storage.read_text(f"{layout.stage(Stage.EVALUATE)}/report.json"))
    found["values"] = [{key: each[key] for key in each.keys() - PLACES} for each in report["benchmarks"]]
    return found


def test_demo_gives_on_each_store_what_it_gives_on_disk(store: S3, from_disk: dict[str, Any], tmp_path: Path) -> None:
    storage = Storage([StorageRule.model_validate(store.rule)])
    for path in DATA.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{store.base}/demo/data/{path.relative_to(DATA)}", path.read_bytes())
    there = contents(storage, run(tmp_path, f"{store.base}/demo", [store.rule]))
    assert there.keys() == from_disk.keys()
    assert {"tar", "parquet", "safetensors"} <= {key.rpartition(".")[2] for key in there}
    steps = there.pop("losses"), from_disk["losses"]
    both = steps[0].keys() & steps[1].keys()  # lines are written by the clock; the first and the last step always
    assert {1, 60} <= both
    assert {step: steps[0][step] for step in both} == {step: steps[1][step] for step in both}
    for key, ours in there.items():
        theirs = from_disk[key]
        if key.endswith(".safetensors"):
            assert ours.keys() == theirs.keys(), key
            assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == [], key
        else:
            assert ours == theirs, key
