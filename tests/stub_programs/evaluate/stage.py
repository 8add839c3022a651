from __future__ import annotations

import json

from stub_programs.stub import Stub

from diht_k8s.api.documents import dump
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import run_folder

_stub = Stub(Stage.EVALUATE)
identify, reads, execute = _stub.identify, _stub.reads, _stub.execute


def present(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """A run's report with only what a comparison reads."""
    folder = run_folder(run)
    own = {
        "name": run.metadata.name,
        "seed": run.spec.training_seed,
        "folder": folder.removeprefix(join(layout.output, "")),
        "folders": {"evaluate": layout.relative(Stage.EVALUATE)},
    }
    content = {
        "schema_version": 1,
        "run": own,
        "benchmarks": [],
        "config": json.loads(dump(run)),
        "funnel": [{"step": "input", "samples": 7}],
        "train": {},
    }
    storage.write_bytes(join(folder, "report.json"), json.dumps(content).encode())
