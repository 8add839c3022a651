"""Our trainer beside open_clip's on this machine's GPUs: throughput, MFU, memory, loader wait.

No figure yet: no GPU was at hand. It takes some two hours. `benchmarks/run train` says how to install open_clip.

Equal: model, shards, batch, precision, workers, activation checkpointing, fused AdamW, 77 tokens. open_clip's best
counts: plain, or with what its version has of `--torchcompile`, `--torchcompile-strategy=step` and `--fsdp`. MFU is of
the dense peak, without recomputation. `--smoke`'s figures mean nothing. Never ran: FSDP, `step`, open_clip 4.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks._arguments import make_parser
from benchmarks._train_data import ROOT, make_data
from benchmarks.gpu.cases import SIZES, SMOKE, Case, Settings, cases
from benchmarks.gpu.commands import command_of, document_of, model_of, scratch, trainer_of
from benchmarks.gpu.process import AGAIN, Box, Measured, run_case
from benchmarks.gpu.table import Row, failures, goals_of, markdown, row_of
from diht_k8s.api.documents import load
from diht_k8s.api.train import Train
from diht_k8s.runtime.preflight import usable_cpus
from diht_k8s.stages.train.estimate.estimate import estimate
from diht_k8s.stages.train.estimate.gpus import peak_flops
from diht_k8s.stages.train.flops import StepWork

PACKAGES = ROOT / ".cache" / "open-clip"
"""Packages for open_clip's trainer alone; another version of open_clip may lie there too."""
RESULTS = ROOT / ".cache" / "gpu-benchmark"
PAIRS_OF_A_CARD = 8192
"""More than our loader keeps decoded, so that both sides decode all the time."""
JPEG_SIDE = 256
LONG_CAPTIONS = 8
"""Every N-th caption fills the context, as in web data, so that both sides compute texts of full length."""
MAX_WORKERS = 16


def main() -> None:
    """Measure what is not yet measured, write results, print the line."""
    arguments = _parsed(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a case's processes are ended, too
    cards = arguments.cards or sorted({1, _available(arguments.smoke)})
    settings = Settings(
        arguments.precision, _workers(arguments, max(cards)), arguments.activation_checkpointing, arguments.zero_stage
    )
    version, options = trainer_of(_environment(reference=True))
    print(f"reference: open_clip {version}, torch {torch.__version__}, {_device()}", file=sys.stderr, flush=True)
    if arguments.again:
        shutil.rmtree(arguments.results, ignore_errors=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    common = {**dataclasses.asdict(settings), "open_clip": version, "torch": torch.__version__, "device": _device()}
    chosen = [case for case in cases(_sizes(arguments), cards, options) if _wanted(case.name, arguments)]
    data = _data(arguments, max(cards), settings.workers)
    rows = [_row(case, settings, data, arguments, common) for case in chosen]
    _write(rows, common, arguments.results)


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("gpu", __doc__)
    parser.add_argument("--only", action="append", help="cases whose name holds this text (repeatable)")
    parser.add_argument("--skip", action="append", default=[], help="no cases whose name holds this text (repeatable)")
    parser.add_argument("--cards", type=int, action="append", help="numbers of cards (default: one and all)")
    parser.add_argument("--batch", action="append", default=[], metavar="MODEL=PAIRS", help="pairs of a card")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--workers", type=int, help="of each rank's loader (default: from the CPUs)")
    parser.add_argument("--activation-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--zero-stage", type=int, choices=(0, 1, 2), default=1, help="ours (default: %(default)s)")
    parser.add_argument("--peak-tflops", type=float, help="of a card that the table of peaks does not know")
    parser.add_argument("--window", type=float, default=60.0, help="seconds that are measured (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=175.0, help="seconds of a case (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=20, help="steps before the window (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="forget the results")
    parser.add_argument("--smoke", action="store_true", help="tiny models, short windows")
    return parser.parse_args(given)


def _available(smoke: bool) -> int:
    """Cards of this machine; two CPU processes stand in for them in a smoke run.

    Raises:
        SystemExit: there is none.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    if smoke:
        return 2
    raise SystemExit("no GPU here: --smoke runs the benchmark's parts on CPUs")


def _sizes(arguments: argparse.Namespace) -> list[Any]:
    batches = dict(text.split("=", 1) for text in arguments.batch)
    sizes = SMOKE if arguments.smoke else SIZES
    return [dataclasses.replace(size, batch=int(batches.get(size.name, size.batch))) for size in sizes]


def _workers(arguments: argparse.Namespace, cards: int) -> int:
    if arguments.workers is not None:
        return arguments.workers
    return 1 if arguments.smoke else min(MAX_WORKERS, max(1, int(usable_cpus() / cards) - 1))


def _environment(*, reference: bool) -> dict[str, str]:
    """Of a case's processes; what lies in PACKAGES is for open_clip's trainer alone."""
    paths = [str(ROOT), *([str(PACKAGES)] if reference else [])]
    return {**os.environ, "PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1", "DIHT_PROGRESS_SECONDS": "0"}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"


def _wanted(name: str, arguments: argparse.Namespace) -> bool:
    chosen = not arguments.only or any(text in name for text in arguments.only)
    return chosen and not any(text in name for text in arguments.skip)


def _data(arguments: argparse.Namespace, cards: int, workers: int) -> Path:
    """The shards that all cases read, written once: at least one for each worker of open_clip's trainer."""
    shards, pairs = cards * max(workers, 1), cards * (256 if arguments.smoke else PAIRS_OF_A_CARD)
    folder = arguments.results / f"data-{pairs}-{shards}"
    if not (folder / "out" / "label" / "COMMITTED.json").exists():
        print(f"writing {pairs} pairs ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        make_data(folder, pairs=pairs, jpeg_side=JPEG_SIDE, shards=shards, long_captions=LONG_CAPTIONS)
    return folder


def _row(case: Case, settings: Settings, data: Path, arguments: argparse.Namespace, common: Row) -> Row:
    """A case's figures, from an earlier run of the same case and settings if there is one."""
    box = Box(arguments.warm_up, arguments.window, arguments.limit)
    if arguments.smoke:
        box = Box(2, min(box.window_s, 3.0), box.limit_s)
    key = {**common, **dataclasses.asdict(case), "box": dataclasses.asdict(box)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    place = arguments.results / f"{digest}.json"
    if place.exists():
        measured = Measured(**json.loads(place.read_text())["measured"])
        if measured.outcome not in AGAIN:
            return _shown(case, measured, arguments, _predicted(case, settings, data), kept=True)
    with scratch(arguments.results) as folder:
        command = command_of(case, settings, data, Path(folder))
        environment = _environment(reference=case.side.is_reference)
        if torch.cuda.is_available():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            environment = {**environment, "CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[: case.cards])}
        measured = run_case(command, environment, box, batch=case.batch, place=Path(folder))
    place.write_text(json.dumps({"case": case.name, "settings": key, "measured": dataclasses.asdict(measured)}))
    return _shown(case, measured, arguments, _predicted(case, settings, data), kept=False)


def _predicted(case: Case, settings: Settings, data: Path) -> int | None:
    """Bytes of a card's tensors at the peak, as `diht estimate` has them; None for what is not our training."""
    if case.side.ours is None:
        return None
    run = load(document_of(case, case.side.ours, settings, data, data), name="benchmark")
    return estimate(run, "H100", largest=False).memory.total  # the same for every card


def _shown(case: Case, measured: Measured, arguments: argparse.Namespace, predicted: int | None, *, kept: bool) -> Row:
    peak = None if arguments.peak_tflops is None else 1e12 * arguments.peak_tflops
    if peak is None and torch.cuda.is_available():
        peak = peak_flops(torch.cuda.get_device_name())
    operations = _operations(json.dumps(model_of(case)), case.batch)
    row = row_of(case, measured, operations=operations, peak=peak, predicted=predicted)
    rate = row.get("samples_per_second")
    said = f"{rate:,.1f} samples/s" if rate else f"{row['loss_ms']:.2f} ms" if "loss_ms" in row else row["outcome"]
    print(f"{case.name}: {said}{' (kept)' if kept else f' in {measured.seconds:.0f} s'}", file=sys.stderr, flush=True)
    return row


@cache
def _operations(config: str, batch: int) -> float:
    """Forward and backward of a pair whose caption fills the context, contrastive loss included; the same for all
    sides.
    """
    train = Train.model_validate({"modelConfig": json.loads(config), "samples": 1, "batchSize": batch})
    work = StepWork(train, num_objects=0, num_attributes=0)
    return work.of_pair(work.context_length).model


def _write(rows: list[Row], common: Row, folder: Path) -> None:
    goals = goals_of(rows)
    document = {"benchmark": "gpu", **common, "cases": rows, "goals": goals}
    (folder / "results.json").write_text(json.dumps(document, indent=1))
    heading = (
        f"{common['device']}, {common['precision']}, torch {common['torch']}, open_clip "
        f"{common['open_clip']}, {common['workers']} loader workers a rank"
    )
    table = markdown(rows, goals, heading)
    (folder / "results.md").write_text(table)
    print(table, file=sys.stderr)
    for row in failures(rows):
        print(f"{row['case']}: {row['outcome']}\n  " + "\n  ".join(row.get("last_lines", [])[-8:]), file=sys.stderr)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
