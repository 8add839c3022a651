"""The command `diht import`, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage


def imported(source: Path, output: Path, *options: str) -> dict[str, Any]:
    assert main(["import", str(source), str(output), *options]) == 0
    return json.loads((output / "COMMITTED.json").read_text())


def pairs(output: Path) -> list[Sample]:
    return [sample for path in sorted(output.glob("*.tar")) for sample in read_samples(Storage(), str(path))]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
