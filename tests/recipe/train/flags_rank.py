"""One rank of the test of flags: tells the others, and puts what it is told into a queue."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from diht_k8s.stages.train.collectives import exchange_flags

WORLD = 3


def told(rank: int, place: str, answers: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=WORLD)
    each = [
        exchange_flags(rank == 1, rank == 2, rank == 0, 0.5 + rank, 10**9 + rank, rank=rank, world=WORLD),
        exchange_flags(False, False, False, 0.0, 0, rank=rank, world=WORLD),
    ]
    answers.put((rank, [(*vars(flags.wait()).values(),) for flags in each]))
    dist.destroy_process_group()
