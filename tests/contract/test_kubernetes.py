"""`torchx run -s kubernetes --dryrun` as a user types it, where there is no cluster: what would be submitted is
printed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.api.documents import load
from tests.contract.local import DOCUMENT, torchx
from tests.unit.launch.kubelet import started

DryRun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DryRun:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-file"))
    (tmp_path / "run.json").write_text(json.dumps(DOCUMENT))
    return lambda cfg, *component: torchx(tmp_path, "run", "-s", "kubernetes", "-cfg", cfg, "--dryrun", *component)


def objects(printed: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(printed.partition("=== SCHEDULER REQUEST ===\n")[2]))


def test_dry_run_prints_the_manifest_of_a_gang_with_the_document_in_it(dry_run: DryRun) -> None:
    done = dry_run(
        "namespace=team,queue=q",
        "components.train",
        "-j",
        "2x1",
        "--image",
        "recipe:1",
        "--",
        "--run",
        "run.json",
        "--set",
        "seed=3",
    )
    assert done.returncode == 0, done.stderr
    job, service = objects(done.stdout)
    assert (job["metadata"]["namespace"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == ("team", "q")
    assert service["metadata"]["name"] == job["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words, env = started(container, 1)
    assert words == ["python3", "-P", "-m", "diht_k8s.cli", "stage", "train"]
    run = load(env["DIHT_RUN"], name="DIHT_RUN")
    assert (run.spec.seed, run.spec.train and run.spec.train.num_nodes) == (3, 2)
    assert {name: env[name] for name in ("DIHT_NODE_RANK", "DIHT_NUM_NODES", "DIHT_PROCESSES")} == {
        "DIHT_NODE_RANK": "1",
        "DIHT_NUM_NODES": "2",
        "DIHT_PROCESSES": "1",
    }
    assert env[env["DIHT_MASTER_VARIABLE"]] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"


@pytest.mark.parametrize(
    ("cfg", "component", "words"),
    [
        ("bogus=1", ["components.train", "--image", "i:1"], "Unknown run option `bogus`"),
        ("namespace=n", ["components.train"], "role train has no image: give --image, or pods.image"),
    ],
)
def test_mistake_is_told(dry_run: DryRun, cfg: str, component: list[str], words: str) -> None:
    done = dry_run(cfg, *component, "--", "--run", "run.json")
    assert done.returncode != 0
    assert words in done.stderr
