"""The losses on the devices: as in float64 on the CPU; divided over all cards as in one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.recipe.train.loss.losses import hn_nce_loss, soft_label_loss
from tests.gpu.devices import devices

RANK_PROGRAM = Path(__file__).with_name("losses_rank.py")
PAIRS, WIDTH = 256, 64
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def features(dtype: torch.dtype, pairs: int = 300) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(pairs, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return [torch.nn.functional.normalize(side, dim=1).to(dtype) for side in drawn]


def difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative, L2."""
    return float((ours.detach().double().cpu() - reference.detach()).norm() / reference.detach().norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_loss_when_on_the_device_then_as_in_float64_on_the_cpu(
    dtype: torch.dtype, tolerance: float, beta: float
) -> None:
    given, found = features(dtype), []
    for kind, precision in (("cpu", torch.float64), (devices().kind, dtype)):
        inputs = [tensor.to(kind, precision).requires_grad_() for tensor in given]
        loss = hn_nce_loss(*inputs, 50.0, beta=beta, chunk_size=128)
        found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    assert [difference(ours, reference) <= tolerance for reference, ours in zip(*found, strict=True)] == [True] * 3


@pytest.mark.two_gpus
@pytest.mark.parametrize("beta", [0.0, 0.25])
def test_losses_when_divided_over_all_cards_then_as_in_one_process(tmp_path: Path, beta: float) -> None:
    generator = torch.Generator().manual_seed(1)
    case: dict[str, Any] = {
        "features": features(torch.float64, PAIRS),
        "logits": torch.randn(PAIRS, 9, generator=generator, dtype=torch.float64),
        "ids": torch.randint(9, (PAIRS, 3), generator=generator),
        "probabilities": torch.full((PAIRS, 3), 1 / 3, dtype=torch.float64),
        "mask": torch.arange(PAIRS) % 5 > 0,
        "beta": beta,
    }
    torch.save(case, tmp_path / "case.pt")
    world = devices().all
    ranks = [result_of(tmp_path, rank) for rank in range(world)] if run_ranks(tmp_path, world) else []

    inputs = [side.clone().requires_grad_() for side in case["features"]]
    logits = case["logits"].clone().requires_grad_()
    contrastive = hn_nce_loss(*inputs, 50.0, beta=beta)
    labels = soft_label_loss(logits, case["ids"], case["probabilities"], case["mask"])
    wanted = [contrastive, labels, *torch.autograd.grad(contrastive, inputs), *torch.autograd.grad(labels, logits)]
    # as data parallelism sees it: losses averaged, gradients of local rows joined and divided by the ranks
    found = [torch.stack(parts).mean() for parts in zip(*(rank[:2] for rank in ranks), strict=True)]
    found += [torch.cat(parts) / world for parts in zip(*(rank[2:] for rank in ranks), strict=True)]
    assert max(difference(ours, reference) for ours, reference in zip(found, wanted, strict=True)) <= 1e-12


def run_ranks(folder: Path, world: int) -> bool:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).resolve().parents[2])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK_PROGRAM), str(folder)],
            env={**os.environ, **devices().variables, **shared, "PYTHONPATH": root,
                 "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world
    return True


def result_of(folder: Path, rank: int) -> list[torch.Tensor]:
    return torch.load(folder / f"rank-{rank}.pt")
