"""One rank of the divided losses: its rows of FOLDER/case.pt on its own device, over the devices' backend.

Usage: losses_rank.py FOLDER, with torchrun's variables. Writes FOLDER/rank-RANK.pt: both losses and their gradients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from diht_k8s.runtime.signals import leave
from diht_k8s.stages.train.collectives import init_process_groups, this_device
from diht_k8s.stages.train.loss.losses import hn_nce_loss, soft_label_loss


def main(folder: Path) -> None:
    init_process_groups(120)
    case = torch.load(folder / "case.pt")

    def mine(rows: torch.Tensor) -> torch.Tensor:
        return rows.chunk(dist.get_world_size())[dist.get_rank()].clone().to(this_device())

    sides, logits = [mine(side).requires_grad_() for side in case["features"]], mine(case["logits"]).requires_grad_()
    group = dist.group.WORLD
    contrastive = hn_nce_loss(*sides, 50.0, beta=case["beta"], group=group)
    targets = (mine(case[name]) for name in ("ids", "probabilities", "mask"))
    labels = soft_label_loss(logits, *targets, group)
    gradients = [*torch.autograd.grad(contrastive, sides), *torch.autograd.grad(labels, logits)]
    found = [tensor.detach().cpu() for tensor in (contrastive, labels, *gradients)]
    torch.save(found, folder / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
