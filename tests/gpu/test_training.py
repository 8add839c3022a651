"""Training on a GPU: the loss's kernels, NCCL, fp16 with loss scaling, page-locked memory, MFU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.recipe.train.health import peak_flops
from diht_k8s.recipe.train.loss.losses import hn_nce_loss
from tests.recipe.train.small_run import Job, document, make_data, train_in_ranks

STEPS, BATCH = 20, 16
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {"zeroStage": 1},
    "fp32, zero 3": {"zeroStage": 3},
    "bf16": {"zeroStage": 1, "precision": "bf16"},
    "fp16": {"zeroStage": 1, "precision": "fp16"},
    "offload": {"zeroStage": 2, "offload": "Optimizer"},
    "compile": {"zeroStage": 1, "compile": True},
    "ema": {"zeroStage": 1, "ema": 0.9},
}
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_loss_when_on_the_device_then_as_on_the_cpu(dtype: torch.dtype, tolerance: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.nn.functional.normalize(torch.randn(300, 64, generator=generator, dtype=torch.float64), dim=1).to(dtype)
        for _ in range(2)
    ]
    found = []
    for device in ("cpu", "cuda"):
        inputs = [tensor.to(device).requires_grad_() for tensor in features]
        loss = hn_nce_loss(*inputs, 50.0, beta=beta, chunk_size=128)
        found.append([loss.detach().cpu(), *(gradient.cpu() for gradient in torch.autograd.grad(loss, inputs))])
    for ours, reference in zip(found[1], found[0], strict=True):
        difference = (ours.double() - reference.double()).norm() / reference.double().norm()
        assert difference <= tolerance


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gpu")
    make_data(folder / "data")
    jobs = {
        name: Job(document(folder / name, data=folder / "data", **{"samples": STEPS * BATCH, **train}))
        for name, train in SETTINGS.items()
    }
    world = min(2, torch.cuda.device_count())
    return {"folder": {"path": folder}, **train_in_ranks(world, jobs, folder / "ranks")}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("fp32, zero 3", 1e-4), ("offload", 1e-4), ("ema", 1e-4), ("compile", 1e-3), ("bf16", 5e-2), ("fp16", 5e-2)],
)
def test_curve_when_trained_then_as_in_fp32(trained: dict[str, dict[str, Any]], name: str, tolerance: float) -> None:
    assert trained[name]["error"] is None
    ours, reference = (torch.tensor(trained[key]["losses"])[:, 0] for key in (name, "fp32"))
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


def test_metrics_when_the_card_is_known_then_its_utilisation_is_among_them(trained: dict[str, dict[str, Any]]) -> None:
    folder: Path = trained["folder"]["path"]
    lines = [
        json.loads(line) for line in (folder / "bf16" / "out" / "train" / "metrics.jsonl").read_text().splitlines()
    ]
    assert ("mfu_percent" in lines[-1]) is (peak_flops(torch.cuda.get_device_name()) is not None)
    assert lines[-1]["peak_memory_mib"] > 0
