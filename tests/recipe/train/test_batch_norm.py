"""BatchNorm over two gloo ranks, in float64: the curve of the global batch in one process with torch's own BatchNorm.

In fp32 a ReLU's kink makes two curves part at some step (a value within rounding of zero falls to either side), so the
sharp bound is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from diht_k8s.stages.train.model.batch_norm import convert_batch_norm
from tests.recipe.train.small_run import gang

PROGRAM = "tests.recipe.train.test_batch_norm"


STEPS, BATCH = 50, 8
LAYOUTS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}


def network() -> nn.Module:
    torch.manual_seed(0)
    blocks = [(3, 8), (8, 8), (8, 16)]
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in blocks]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).double()


def train(net: nn.Module, layout: str, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """Train on a rank's rows of each batch; losses are of the global batch."""
    generator = torch.Generator().manual_seed(1)
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-2, eps=1e-6), []
    wanted = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
    for _ in range(STEPS):
        images = torch.randn(BATCH, 3, 6, 6, generator=generator, dtype=torch.float64)
        own = images[rank::ranks].contiguous(memory_format=LAYOUTS[layout])
        loss = (net(own) - wanted[rank::ranks]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if ranks > 1:
            for each in [loss.detach(), *(p.grad for p in net.parameters())]:
                dist.all_reduce(each)
                each /= ranks
        optimizer.step()
        losses.append(float(loss.detach()))
    return {"losses": torch.tensor(losses, dtype=torch.float64), "state": net.state_dict()}


def main(folder: str, layout: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found = train(convert_batch_norm(network(), torch.device("cpu")), layout, rank, ranks)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_curve_when_over_two_ranks_then_that_of_the_global_batch(tmp_path: Path, layout: str) -> None:
    gang(PROGRAM, tmp_path, 2, layout, modules=(PROGRAM, "torch._dynamo"))  # an optimizer imports it
    found, expected = torch.load(tmp_path / "found.pt"), train(network(), layout)
    assert expected["losses"][-1] < expected["losses"][0]
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=0, atol=1e-10)
    assert found["state"].keys() == expected["state"].keys()
    for key, value in expected["state"].items():
        torch.testing.assert_close(
            found["state"][key], value, rtol=0, atol=1e-8, msg=lambda text, k=key: f"{k}: {text}"
        )
