"""The demo, stage by stage, start-up included: seconds, CPU seconds, samples per second, peak memory (sum of PSS).

Once, on two idle cores: filter 108 CPU s, label 100, train 121, evaluate 79.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks._arguments import make_parser
from diht_k8s.api.documents import load
from diht_k8s.api.layout import MARKER
from diht_k8s.api.run import Stage

ROOT = Path(__file__).resolve().parent.parent
INTERVAL_S = 0.2


def main() -> None:
    """Run the demo and print the line."""
    parser = make_parser("demo", __doc__)
    parser.add_argument("--document", default="examples/demo.yaml", help="the run document (default: %(default)s)")
    arguments = parser.parse_args()
    run = load((ROOT / arguments.document).read_text(), name=arguments.document)
    with tempfile.TemporaryDirectory() as folder:
        latest = Path(folder) / run.spec.data.output / "runs/latest"
        stages = {stage.value: measure(arguments.document, folder, stage, latest) for stage in run.spec.stages}
    seconds = round(sum(stage["seconds"] for stage in stages.values()), 1)
    spent = round(sum(stage["cpu_seconds"] for stage in stages.values()), 1)
    print(
        json.dumps(
            {
                "benchmark": "demo",
                "seconds": seconds,
                "cpu_seconds": spent,
                "cores": psutil.cpu_count(),
                "stages": stages,
            }
        )
    )


def children_cpu_seconds() -> float:
    """Of all processes that have ended and been waited for."""
    times = os.times()
    return times.children_user + times.children_system


def measure(document: str, folder: str, stage: Stage, latest: Path) -> dict[str, Any]:
    """Wall time, throughput and memory of one stage."""
    diht = shutil.which("diht", path=str(Path(sys.executable).parent)) or "diht"
    began, peak, before = time.perf_counter(), 0, children_cpu_seconds()
    process = subprocess.Popen(
        [diht, "run", document, "--workdir", folder, "--until", stage.value], cwd=ROOT, stdout=sys.stderr
    )
    while process.poll() is None:
        peak = max(peak, held_bytes(process.pid))
        time.sleep(INTERVAL_S)
    if process.returncode:
        raise SystemExit(f"diht run ended with exit code {process.returncode} in the stage {stage}")
    seconds = time.perf_counter() - began
    samples = samples_of(stage, json.loads((latest / stage.value / MARKER).read_text())["summary"])
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(children_cpu_seconds() - before, 1),
        "samples": samples,
        "samples_per_second": round(samples / seconds, 1),
        "peak_memory_mib": round(peak / 2**20),
    }


def held_bytes(pid: int) -> int:
    """Memory that a process and all its descendants hold, each shared page divided by its users."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the list and the look
    return total


def samples_of(stage: Stage, summary: dict[str, Any]) -> int:
    """How many samples a stage went through, from its commit marker."""
    if stage is Stage.FILTER:
        return int(summary["counts"]["input"])
    return int(summary["samples"])


if __name__ == "__main__":
    main()
