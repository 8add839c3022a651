"""What the ranks exchange after each step, so that all of them save, stop and validate in the same one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from diht_k8s.recipe.train.distributed import control_group


@dataclass
class LastSave:
    """Time and position of the last checkpoint."""

    saved_at: float
    saved_position: int


@dataclass(frozen=True)
class Consensus:
    """What the ranks exchanged after a step; equal on all of them."""

    stop: bool
    due: bool
    busy: bool
    own_seconds: list[float]


def agreed(stop: bool, due: bool, busy: bool, own_seconds: float, *, rank: int, world: int) -> Consensus:
    """Requests of any rank and the time of each (a collective of the control group)."""
    if world == 1:
        return Consensus(stop, due, busy, [own_seconds])
    values = torch.zeros(3 + world)
    values[:3] = torch.tensor([stop, due, busy])
    values[3 + rank] = own_seconds
    dist.all_reduce(values, dist.ReduceOp.MAX, group=control_group())
    stop_any, due_any, busy_any, *own = values.tolist()
    return Consensus(bool(stop_any), bool(due_any), bool(busy_any), own)
