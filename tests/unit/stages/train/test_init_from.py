from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from diht_k8s.api.documents import load
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.stage import identify

print("initFrom" in identify(load(sys.argv[1], name="run"), Storage(), Layout("out"))[0], "torch" in sys.modules)
"""


def test_launcher_when_it_identifies_first_weights_then_without_torch(tmp_path: Path) -> None:
    for name in ("a.tar", "a.pt"):
        (tmp_path / name).write_bytes(b"")
    shards = [str(tmp_path / "a.tar")]
    train = {
        "model": "ViT-B-16",
        "samples": 1,
        "shards": shards,
        "distillation": {"mode": "Disabled"},
        "initFrom": {"uri": str(tmp_path / "a.pt")},
    }
    data = {"sources": [{"name": "a", "shards": shards}], "output": str(tmp_path / "out")}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    document = json.dumps({**run, "spec": {"data": data, "train": train}})
    ended = subprocess.run([sys.executable, "-c", PROGRAM, document], capture_output=True, text=True, timeout=300)
    assert (ended.stdout.split(), ended.stderr) == (["True", "False"], "")
