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

from diht_k8s.stages.train.loss.hn_nce import HnNce, HnNceSettings
from diht_k8s.stages.train.loss.losses import fused_plan, hn_nce_loss, hn_nce_loss_and_statistics, soft_label_loss
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


def hard_pairs(pairs: int, width: int) -> list[torch.Tensor]:
    """In fp32, with a cosine of about 0.2 of each pair."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(pairs, width, generator=generator)
    text = image + 5 * torch.randn(pairs, width, generator=generator)
    return [torch.nn.functional.normalize(side, dim=1) for side in (image, text)]


@pytest.mark.parametrize("surplus", [0, 37])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [512, 500, 768])
@pytest.mark.parametrize("settings", [{}, {"alpha": 0.5, "beta": 0.0}, {"differentiate_weights": False}], ids=str)
def test_fused_loss_at_scale_100_errs_at_most_twice_as_much_as_fp32_and_always_alike(
    settings: dict[str, Any], width: int, masked: bool, surplus: int
) -> None:
    sides = [side.to(devices().kind) for side in hard_pairs(1000, width)]
    if fused_plan(*sides) is None:
        pytest.skip("the tiles in plain torch serve here")
    full = HnNceSettings(
        **{"alpha": 1.0, "beta": 0.25, "differentiate_weights": True, **settings},
        chunk_size=256,
        group=None,
        num_pairs=1000 - surplus,
    )
    ids = torch.arange(1000, device=sides[0].device) % 875 if masked else None
    found = []
    for dtype, function in (
        (torch.float64, HnNce),
        (torch.float32, HnNce),
        (torch.float32, None),
        (torch.float32, None),
    ):
        inputs = [each.to(dtype).requires_grad_() for each in (*sides, torch.tensor(100.0, device=sides[0].device))]
        if function is None:
            loss, statistics = hn_nce_loss_and_statistics(*inputs, full, ids)
            statistics = torch.stack(statistics)
        else:
            loss, statistics = function.apply(*inputs, ids, full)
        found.append([loss.detach(), statistics, *torch.autograd.grad(loss, inputs)])
    exact = [each.cpu() for each in found[0]]
    assert all(torch.equal(first, second) for first, second in zip(found[2], found[3], strict=True))
    for tiles, fused, wanted in zip(found[1], found[2], exact, strict=True):
        least = (
            2.5e-6 if wanted.dim() else 5e-6
        )  # tensor cores truncate; a scalar's own error in fp32 is a matter of luck
        assert difference(fused, wanted) <= max(2 * difference(tiles, wanted), least)


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
            env={
                **os.environ,
                **devices().variables,
                **shared,
                "PYTHONPATH": root,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
        )
        for rank in range(world)
    ]
    try:
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world
    return True


def result_of(folder: Path, rank: int) -> list[torch.Tensor]:
    return torch.load(folder / f"rank-{rank}.pt")
