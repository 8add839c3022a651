"""What the tests of commands share: a small run document, and the `torchx` command with stub programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]

DOCUMENT: dict[str, Any] = {
    "apiVersion": "diht.dev/v1alpha1",
    "kind": "DihtRun",
    "metadata": {"name": "tiny"},
    "spec": {
        "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "out"},
        "filter": {"workers": 5},
        "train": {"model": "ViT-B-32", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}},
    },
}
SHARDS = ("a.tar", "b.tar")


def write_run(folder: Path, document: dict[str, Any]) -> None:
    """A document, and shards under the names that it gives them: stub programs do not read them."""
    for name in SHARDS:
        (folder / name).touch()
    (folder / "run.json").write_text(json.dumps(document))


TORCHX = Path(sys.executable).with_name("torchx")


def torchx(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "DIHT_PROGRAMS": "stub_programs",
        "PYTHONPATH": str(TESTS),
        "PATH": "/usr/bin:/bin",  # no virtual environment is activated
    }
    return subprocess.run(
        [TORCHX, *arguments], cwd=folder, env=env, text=True, capture_output=True, timeout=300, check=False
    )


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
