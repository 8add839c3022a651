"""The command lines of the sides, with equal settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks._train_data import ROOT
from benchmarks.gpu.cases import LOSS, Case, Settings
from diht_k8s.api.documents import load

MANY_SAMPLES: Final = 10**9
"""Nothing ends by itself: each case is stopped after its window."""
RANK: Final = "benchmarks.gpu.open_clip_rank"


def model_of(case: Case) -> dict[str, Any]:
    """The open_clip configuration of a case."""
    if case.size.config is not None:
        return case.size.config
    import open_clip

    found = open_clip.get_model_config(case.size.name)
    assert found is not None, case.size.name
    return found


def command_of(case: Case, settings: Settings, data: Path, place: Path) -> list[str]:
    """How to start a case.

    Args:
        case: which.
        settings: of all cases.
        data: where `make_data` wrote.
        place: an empty folder for what the side writes.
    """
    if case.side is LOSS:
        widths = [case.size.batch, model_of(case)["embed_dim"]]
        return [*_torchrun(case.cards), "-m", "benchmarks.gpu.loss_rank", *map(str, widths)]
    if case.side.ours is not None:
        return _ours(case, case.side.ours, settings, data, place)
    return _open_clip(case, settings, data, place)


def _ours(case: Case, fields: dict[str, Any], settings: Settings, data: Path, place: Path) -> list[str]:
    document = place / "run.json"
    document.write_text(document_of(case, fields, settings, data, place))
    load(document.read_text(), name="benchmark")
    return [sys.executable, "-m", "diht_k8s.cli", "stage", "train", "--run", str(document)]


def document_of(case: Case, fields: dict[str, Any], settings: Settings, data: Path, place: Path) -> str:
    """The run document of one of our sides.

    Args:
        case: which.
        fields: of `spec.train`, the side's own.
        settings: of all cases.
        data: where `make_data` wrote.
        place: for what the training writes.
    """
    shards = [f"{data}/shards/*.tar"]
    train = {
        "modelConfig": model_of(case),
        "shards": shards,
        "labels": f"{data}/out/label",
        "samples": MANY_SAMPLES,
        "batchSize": case.batch,
        "precision": settings.precision,
        "processesPerNode": case.cards,
        "loaderWorkers": settings.workers,
        "activationCheckpointing": settings.checkpointing,
        "zeroStage": settings.zero_stage,
        "optimizer": settings.optimizer,
        "schedule": {"warmupSamples": settings.warm_up_steps * case.batch},
        "checkpoint": {"everySeconds": 10**6},
        **fields,
    }
    spec = {
        "data": {"sources": [{"name": "pairs", "shards": shards}], "output": str(place / "out")},
        "train": train,
    }
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "benchmark"}, "spec": spec}
    return json.dumps(run)


def _open_clip(case: Case, settings: Settings, data: Path, place: Path) -> list[str]:
    model = place / f"{case.size.name}-benchmark.json"
    model.write_text(json.dumps(model_of(case)))
    import torch

    gpu, optimizer = torch.cuda.is_available(), settings.optimizer
    last = len(list((data / "shards").glob("*.tar"))) - 1
    arguments = [
        *(
            f"--model={model.stem}",
            f"--train-data={data}/shards/{{00000..{last:05d}}}.tar",
            "--dataset-type=webdataset",
        ),
        *(f"--train-num-samples={MANY_SAMPLES}", f"--batch-size={case.size.batch}", "--epochs=1"),
        *(f"--precision={'amp_bf16' if settings.precision == 'bf16' else settings.precision}",),
        *("--local-loss", "--gather-with-grad", f"--workers={settings.workers}", "--save-frequency=0"),
        *(f"--log-every-n-steps={10 if gpu else 1}", f"--logs={place}"),
        *(f"--device={'cuda' if gpu else 'cpu'}", f"--dist-backend={'nccl' if gpu else 'gloo'}"),
        *(f"--lr={optimizer['lr']}", f"--wd={optimizer['weightDecay']}", f"--warmup={settings.warm_up_steps}"),
        *(f"--beta1={optimizer['beta1']}", f"--beta2={optimizer['beta2']}", f"--eps={optimizer['eps']}"),
        f"--grad-clip-norm={optimizer['gradientClipNorm']}",
        *(["--grad-checkpointing"] if settings.checkpointing else []),
        *case.side.options,
    ]
    return [*_torchrun(case.cards), "-m", RANK, str(model), json.dumps(arguments)]


def _torchrun(cards: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={cards}", "--standalone"]


def trainer_of(environment: Mapping[str, str]) -> tuple[str, set[str]]:
    """Version and options of open_clip's trainer.

    Raises:
        SystemExit: it does not start.
    """
    asked = subprocess.run(
        [sys.executable, "-m", RANK, "--version"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        raise SystemExit(f"open_clip's trainer does not start:\n{asked.stderr[-2000:]}")
    version, _, text = asked.stdout.partition("\n")
    return version, set(re.findall(r"--[a-z][\w-]*", text))


def scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """An empty folder for one case, removed afterwards."""
    return tempfile.TemporaryDirectory(dir=folder, prefix="case-")
