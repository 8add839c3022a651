"""Times HN-NCE alone as one rank: `python -m benchmarks.gpu.loss_rank PAIRS WIDTH`, with torchrun's variables.

Forward and backward over random fp32 features of all ranks, as a step has them at any precision; prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time

import torch
import torch.distributed as dist

from diht_k8s.recipe.runtime.rank_exit import leave
from diht_k8s.recipe.train.distributed import init_process_groups, this_device
from diht_k8s.recipe.train.loss.hn_nce import CHUNK_SIZE
from diht_k8s.recipe.train.loss.losses import hn_nce_loss

ROUNDS = 20


def main(pairs: int, width: int) -> None:
    """Measure and print."""
    init_process_groups()
    group = dist.group.WORLD if dist.get_world_size() > 1 else None
    device = this_device()
    image_BD, text_BD = (
        torch.nn.functional.normalize(torch.randn(pairs, width, device=device), dim=1).requires_grad_()
        for _ in range(2)
    )

    def once() -> None:
        hn_nce_loss(image_BD, text_BD, 50.0, beta=0.25, chunk_size=CHUNK_SIZE, group=group).backward()

    for _ in range(3):
        once()
    _wait(device)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        once()
    _wait(device)
    if dist.get_rank() == 0:
        print(json.dumps({"loss_ms": 1000 * (time.perf_counter() - began) / ROUNDS}), flush=True)
    dist.destroy_process_group()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    leave(0)
