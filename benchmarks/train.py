"""Our trainer beside open_clip's own: samples and CPU seconds, peak memory of host and GPUs.

Equal: model, data, batch, precision, processes, one thread each. open_clip 3.3.0, two processes on CPUs, bf16, InfoNCE:
a small ResNet (width 16, 64 px), batch 256, 39 steps, idle; `--case vit-b-32`, batch 64, 7 steps: 1.06 x beside fused
AdamW. Ours keeps decoded images, hence the memory. The gain is attention in fp32 where torch's bf16 kernel for CPUs is
slow, short texts and fused AdamW: it says nothing about GPUs.

`--case locked --sides ours_locked ours_stored` needs no open_clip.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from benchmarks._arguments import make_parser
from benchmarks._train_data import ROOT, make_data
from benchmarks.demo import held_bytes
from diht_k8s.api.documents import load
from diht_k8s.api.reports import parse_progress

MEMORY_INTERVAL_S = 1.0
INFO_NCE = {"loss": {"alpha": 1.0, "beta": 0.0}, "distillation": {"mode": "Disabled"}}
HN_NCE = {"loss": {"alpha": 1.0, "beta": 0.25}, "distillation": {"mode": "Concepts"}}
LOCKED = {**INFO_NCE, "lockImageTower": True}
SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
"""A ResNet that two cores train in minutes."""
PACKAGES = ROOT / ".cache" / "open-clip"
"""Packages for open_clip's trainer alone."""
SIDES = ("ours", "open_clip", "open_clip_fused", "ours_hn_nce_and_heads")
LOCKED_SIDES = ("ours_locked", "ours_stored", "open_clip_locked")
"""Of the demo's model, whose image tower does not learn: passed in each step, or once."""
REFERENCES = ("open_clip", "open_clip_locked", "ours_locked")
"""The first that is measured."""


@dataclass(frozen=True)
class Case:
    """What is trained."""

    model: dict[str, Any]
    """an open_clip configuration."""
    batch: int
    steps: int
    warm_up: int
    """steps before the clock starts."""
    pairs: int
    jpeg_side: int | None = None


@dataclass(frozen=True)
class Measured:
    """One run of one side, after its warm-up."""

    samples_per_second: float
    cpu_ms_per_sample: float
    peak_memory_mib: float
    peak_gpu_memory_mib: float
    """0 on CPUs."""


FIGURES = ("samples_per_second", "cpu_ms_per_sample", "peak_memory_mib", "peak_gpu_memory_mib")


def cases(*, gpus: int = 0) -> dict[str, Case]:
    """A small ResNet over one and a half epochs of the demo's data, the first third left out, the demo's model, and
    open_clip's ViTs.

    The ViTs train for as long as two cores bear; with GPUs, on batches that fill cards of 80 GB.
    """
    import open_clip

    demo = yaml.safe_load((ROOT / "examples" / "demo.yaml").read_text())["spec"]["train"]["modelConfig"]
    small_vit = {"image_size": 64, "layers": 6, "width": 192, "head_width": 48, "patch_size": 8}
    found = {
        "small": Case(SMALL, batch=256, steps=39, warm_up=13, pairs=6590),
        "locked": Case(demo, batch=512, steps=6, warm_up=2, pairs=2048),
        "vit-small": Case(
            {**SMALL, "vision_cfg": small_vit, "text_cfg": {**SMALL["text_cfg"], "context_length": 77}},
            batch=256,
            steps=40,
            warm_up=10,
            pairs=6590,
        ),
    }
    for name, on_cpu, a_card in (("ViT-B-32", 64, 1024), ("ViT-B-16", 16, 512), ("ViT-L-14", 4, 128)):
        config = open_clip.get_model_config(name)
        assert config is not None
        batch, steps, warm_up = (gpus * a_card, 60, 20) if gpus else (on_cpu, 7, 2)
        found[name.lower()] = Case(config, batch, steps, warm_up, pairs=max(448, 4 * batch), jpeg_side=256)
    return found


def loader_workers() -> int:
    """Worker processes of each rank's loader, the same on both sides."""
    return 4 if torch.cuda.is_available() else 0


def ours(case: Case, folder: Path, processes: int, precision: str, train: dict[str, Any]) -> list[str]:
    """The command of our trainer."""
    place = tempfile.mkdtemp(dir=folder)
    body = {
        "modelConfig": case.model,
        "shards": [f"{folder}/shards/*.tar"],
        "labels": f"{folder}/out/label",
        "samples": case.steps * case.batch,
        "batchSize": case.batch,
        "precision": precision,
        "processesPerNode": processes,
        "loaderWorkers": loader_workers(),
        "checkpoint": {"everySeconds": 100_000},
        **train,
    }
    data = {"sources": [{"name": "pairs", "shards": body["shards"]}], "output": place}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "benchmark"}}
    document = Path(place) / "run.json"
    document.write_text(json.dumps({**run, "spec": {"data": data, "train": body}}))
    load(document.read_text(), name="benchmark")
    return [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", str(document)]


def open_clip_trainer(
    case: Case, folder: Path, processes: int, precision: str, *, fused: bool = False, locked: bool = False
) -> list[str]:
    """The command of open_clip's trainer, with the settings that its manual advises for several processes."""
    model = folder / "benchmark-model.json"
    model.write_text(json.dumps(case.model))
    gpu = torch.cuda.is_available()
    arguments = [
        *(f"--model={model.stem}", f"--train-data={folder}/shards/{{00000..00003}}.tar", "--dataset-type=webdataset"),
        *(f"--train-num-samples={case.steps * case.batch}", f"--batch-size={case.batch // processes}", "--epochs=1"),
        *(f"--precision={'amp_bf16' if precision == 'bf16' else precision}", "--local-loss", "--gather-with-grad"),
        *(f"--workers={loader_workers()}", "--log-every-n-steps=1", "--save-frequency=0"),
        *(f"--device={'cuda' if gpu else 'cpu'}", f"--dist-backend={'nccl' if gpu else 'gloo'}"),
        *("--lr=5e-4", "--wd=0.2", "--beta1=0.9", "--beta2=0.98", "--eps=1e-6", "--grad-clip-norm=1.0", "--warmup=0"),
        f"--logs={tempfile.mkdtemp(dir=folder)}",
        *(("--lock-image", "--lock-image-freeze-bn-stats") if locked else ()),
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    return [*torchrun, "-m", "benchmarks._open_clip", str(model), str(int(fused)), json.dumps(arguments)]


def samples_of(line: str) -> int | None:
    """How many samples a line of either trainer says are done."""
    progress = parse_progress(line)
    if progress is not None:
        return (progress.done or None) if progress.step == "steps" else None
    found = re.search(r"Train Epoch: \d+ \[\s*(\d+)/", line)
    return int(found[1]) if found else None


def measure(command: list[str], case: Case) -> Measured:
    """Run one side and time it between the end of its warm-up and its last step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIHT_PROGRESS_SECONDS": "0", "PYTHONPATH": str(ROOT)}
    if "benchmarks._open_clip" in command:
        environment["PYTHONPATH"] += f":{PACKAGES}"
    marks: list[tuple[int, float, float]] = []
    lines: list[str] = []
    before = gpu_bytes()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        memory = Memory(process.pid, before)
        for line in process.stdout:
            lines.append(line)
            done = samples_of(line)
            if done is not None and (done == case.warm_up * case.batch or done == case.steps * case.batch):
                marks.append((done, time.perf_counter(), cpu_seconds(process.pid)))
        peak, peak_gpu = memory.stop()
    marks = list({done: mark for mark in reversed(marks) if (done := mark[0])}.values())[::-1]
    if process.returncode or len(marks) != 2:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}:\n{''.join(lines[-200:])}")
    (first, began, cpu_began), (last, ended, cpu_ended) = marks
    samples = last - first
    return Measured(samples / (ended - began), 1000 * (cpu_ended - cpu_began) / samples, peak / 2**20, peak_gpu / 2**20)


class Memory:
    """Watches a process, its descendants and the GPUs from a thread."""

    def __init__(self, pid: int, before: int) -> None:
        """Begin; `before` is what the GPUs held without the process."""
        self._peak, self._peak_gpu, self._before, self._ended = 0, 0, before, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def _watch(self, pid: int) -> None:
        while not self._ended.wait(MEMORY_INTERVAL_S):
            self._peak = max(self._peak, held_bytes(pid))
            self._peak_gpu = max(self._peak_gpu, gpu_bytes() - self._before)

    def stop(self) -> tuple[int, int]:
        """The most that the processes held, and the GPUs for them, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak, self._peak_gpu


def gpu_bytes() -> int:
    """What all GPUs hold now, for whatever process; 0 without a GPU."""
    sizes = [torch.cuda.mem_get_info(device) for device in range(torch.cuda.device_count())]
    return sum(total - free for free, total in sizes)


def cpu_seconds(pid: int) -> float:
    """CPU time so far of a process and all its descendants that live."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, ready for one JSON line."""
    case = cases(gpus=arguments.processes if torch.cuda.is_available() else 0)[arguments.case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, pairs=case.pairs, jpeg_side=case.jpeg_side)
        shape = (case, folder, arguments.processes, arguments.precision)
        commands: dict[str, Callable[[], list[str]]] = {
            "ours": lambda: ours(*shape, INFO_NCE),
            "open_clip": lambda: open_clip_trainer(*shape),
            "open_clip_fused": lambda: open_clip_trainer(*shape, fused=True),
            "ours_hn_nce_and_heads": lambda: ours(*shape, HN_NCE),
            "ours_locked": lambda: ours(*shape, LOCKED),
            "ours_stored": lambda: ours(*shape, {**LOCKED, "features": "Stored"}),
            "open_clip_locked": lambda: open_clip_trainer(*shape, locked=True),
        }
        names = sides_of(arguments)
        found: dict[str, list[Measured]] = {side: [] for side in names}
        for _ in range(arguments.rounds):
            for side in names:
                found[side].append(measure(commands[side](), case))
                print(side, found[side][-1], file=sys.stderr, flush=True)
    sides = {side: _middle(runs) for side, runs in found.items()}
    return {
        "benchmark": "train",
        "case": arguments.case,
        "processes": arguments.processes,
        "precision": arguments.precision,
        "rounds": arguments.rounds,
        "sides": sides,
        "ratio": {key: _ratios(sides, key) for key in FIGURES},
        "loader_workers": loader_workers(),
        "open_clip": importlib.metadata.version("open_clip_torch"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores",
    }


def sides_of(arguments: argparse.Namespace) -> list[str]:
    """The sides that were asked for, or those of the case."""
    return arguments.sides or list(LOCKED_SIDES if arguments.case == "locked" else SIDES)


def _middle(runs: list[Measured]) -> dict[str, float]:
    return {key: round(statistics.median(getattr(run, key) for run in runs), 3) for key in FIGURES}


def _ratios(sides: dict[str, dict[str, float]], key: str) -> dict[str, float]:
    reference = next((side for side in REFERENCES if side in sides), None)
    if reference is None or not sides[reference][key]:  # no reference, or no GPU
        return {}
    return {side: round(values[key] / sides[reference][key], 3) for side, values in sides.items() if side != reference}


def main() -> None:
    """Measure and print the line."""
    parser = make_parser("train", __doc__)
    parser.add_argument("--case", choices=sorted(cases()), default="small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, *LOCKED_SIDES), help="default: those of the case")
    arguments = parser.parse_args()
    if not PACKAGES.exists() and any(side.startswith("open_clip") for side in sides_of(arguments)):
        where, pins = PACKAGES.relative_to(ROOT), "benchmarks/open-clip-requirements.txt"
        raise SystemExit(
            f"{where} is missing, run first: .venv/bin/python -m pip install --target {where} --no-deps -r {pins}"
        )
    print(json.dumps(report(arguments)))


if __name__ == "__main__":
    main()
