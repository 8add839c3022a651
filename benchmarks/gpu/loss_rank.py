"""Times HN-NCE alone as one rank: `python -m benchmarks.gpu.loss_rank PAIRS WIDTH`, with torchrun's variables."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from diht_k8s.runtime.signals import leave
from diht_k8s.stages.train.collectives import init_process_groups, this_device
from diht_k8s.stages.train.loss.hn_nce import CHUNK_SIZE, HnNce, HnNceSettings
from diht_k8s.stages.train.loss.losses import fused_plan, hn_nce_loss_and_statistics

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

    settings = HnNceSettings(alpha=1.0, beta=0.25, differentiate_weights=True, chunk_size=CHUNK_SIZE, group=group)
    scale = torch.tensor(50.0, device=device, requires_grad=True)

    def chosen() -> None:
        hn_nce_loss_and_statistics(image_BD, text_BD, scale, settings)[0].backward()

    def tiles() -> None:
        HnNce.apply(image_BD, text_BD, scale, None, settings)[0].backward()

    found = {"loss_ms": _milliseconds(chosen, device), "tiles_ms": _milliseconds(tiles, device)}
    if dist.get_rank() == 0:
        print(json.dumps({**found, "fused": fused_plan(image_BD, text_BD) is not None}), flush=True)
    dist.destroy_process_group()


def _milliseconds(once: Callable[[], None], device: torch.device) -> float:
    for _ in range(3):
        once()
    _wait(device)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        once()
    _wait(device)
    return 1000 * (time.perf_counter() - began) / ROUNDS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    leave(0)
