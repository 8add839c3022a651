"""One rank of the BatchNorm tests: trains a small network in float64 over its rows of each batch.

Usage: batch_norm_rank.py RANK RANKS FOLDER LAYOUT. Rank 0 writes FOLDER/found.pt.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from diht_k8s.stages.train.model.batch_norm import convert_batch_norm

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


def main(rank_: str, ranks_: str, folder: str, layout: str) -> None:
    rank, ranks = int(rank_), int(ranks_)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    found = train(convert_batch_norm(network(), torch.device("cpu")), layout, rank, ranks)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
