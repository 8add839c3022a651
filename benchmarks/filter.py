"""The filter with one process and with two, on the demo's pool with text spotting: speed-up by CPU time.

`busiest` counts the busier process, as if each had its own core, `total` half of their sum. Start-up is subtracted
(with it 1.59 x); compiling, which lowers a small pool's ratio, is not. The larger pool: `--shards
"runs/corpus/train/{00000..00009}.tar.gz"`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks._arguments import make_parser
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
FEW = 8


def main() -> None:
    """Measure and print."""
    parser = make_parser("filter", __doc__)
    parser.add_argument(
        "--shards", default=f"{ROOT}/examples/data/train/*.tar.gz", help="pattern (default: the demo's)"
    )
    parser.add_argument("--detector-size", type=int, default=160)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, storage = Path(name), Storage()
        first = storage.expand([arguments.shards])[0]
        few = [
            (sample.key, sample.members) for sample, _ in zip(read_samples(storage, first), range(FEW), strict=False)
        ]
        write_samples(storage, f"{folder}/few.tar", few)
        (start,) = cpu_seconds(document(folder, "start", f"{folder}/few.tar", arguments.detector_size), 1)
        (alone,) = cpu_seconds(document(folder, "one", arguments.shards, arguments.detector_size), 1)
        both = cpu_seconds(document(folder, "two", arguments.shards, arguments.detector_size), 2)
    work, share = alone - start, [seconds - start for seconds in both]
    figures = {
        "benchmark": "filter",
        "cpu_seconds": {"start": round(start, 1), "one": round(alone, 1), "two": [round(one, 1) for one in both]},
        "speed_up": {"busiest": round(work / max(share), 2), "total": round(2 * work / sum(share), 2)},
        "speed_up_with_start": round(alone / max(both), 2),
    }
    print(json.dumps(figures))


def document(folder: Path, name: str, shards: str, detector_size: int) -> Path:
    """A run with the filter stage only."""
    spec = {
        "data": {"sources": [{"name": "pool", "shards": [shards]}], "output": f"{folder}/{name}"},
        "filter": {"minActions": 0, "textSpotting": {"detectorSize": detector_size}},
    }
    text = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": name}, "spec": spec}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def cpu_seconds(run: Path, workers: int) -> Sequence[float]:
    """User and system seconds of each worker; the workers run in parallel."""
    command = [sys.executable, "-m", "diht_k8s.cli", "stage", "filter", "--run", str(run), "--workers", str(workers)]
    processes = [
        subprocess.Popen([*command, "--worker", str(worker)], env={**os.environ, **ONE_THREAD}, stdout=sys.stderr)
        for worker in range(workers)
    ]
    found = []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"a worker of {run.name} ended with {os.waitstatus_to_exitcode(status)}")
        found.append(usage.ru_utime + usage.ru_stime)
    return found


if __name__ == "__main__":
    main()
