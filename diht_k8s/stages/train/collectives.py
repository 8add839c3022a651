"""Collectives over NCCL or gloo, outside autograd: rows for the losses, objects, errors, and the flags of a step.

The losses differentiate by hand, so nothing here records a graph. Without a process group a function returns its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError
from diht_k8s.stages.train.distributed import control_group

# torch 2.13 renamed both; the old names warn there, the new ones are missing before.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_Object = TypeVar("_Object")

# Shape legend: B rows of this rank, N rows of all ranks, ... any further dimensions.


def group_size(group: dist.ProcessGroup | None) -> int:
    """Number of ranks; 1 without a group."""
    return 1 if group is None else dist.get_world_size(group)


def group_rank(group: dist.ProcessGroup | None) -> int:
    """This process's rank inside the group; 0 without a group."""
    return 0 if group is None else dist.get_rank(group)


def require_equal_shapes(local_BD: Tensor, group: dist.ProcessGroup | None) -> None:
    """Raise on every rank when the ranks hold batches of different shapes; a gather of these hangs or mixes rows.

    It costs an exchange of two integers, for which a GPU would be waited for. So a training on GPUs, which has a
    control group, goes without: its ranks' rows are equally many by construction (`data.share`).

    Raises:
        ValueError: the shapes differ; the message lists them in rank order.
    """
    if group is None or control_group() is not None:
        return
    mine = torch.tensor([local_BD.shape], dtype=torch.int64, device=local_BD.device)
    shapes = [tuple(shape) for shape in gather_rows(mine, group).tolist()]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"local batches differ between ranks: (pairs, width) = {shapes} in rank order; give every rank the same "
            "number of pairs (drop the last, incomplete batch)"
        )


def gather_rows(local_B: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """All ranks' rows, (B, ...) to (N, ...), in rank order."""
    if group is None:
        return local_B
    local_B = local_B.contiguous()
    rows_N = local_B.new_empty(local_B.shape[0] * group_size(group), *local_B.shape[1:])
    _all_gather(rows_N, local_B, group=group)
    return rows_N


def scatter_row_sums(rows_N: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum (N, ...) over the ranks and keep this rank's (B, ...) part: the transpose of `gather_rows`."""
    if group is None:
        return rows_N
    rows_B = rows_N.new_empty(rows_N.shape[0] // group_size(group), *rows_N.shape[1:])
    _reduce_scatter(rows_B, rows_N.contiguous(), op=dist.ReduceOp.SUM, group=group)
    return rows_B


def gather_objects(mine: _Object) -> list[_Object]:
    """Each rank's picklable object, in rank order (a collective); without a process group, only this process's."""
    everybody = [mine] * (dist.get_world_size() if dist.is_initialized() else 1)
    if len(everybody) > 1:
        dist.all_gather_object(everybody, mine, group=control_group())
    return everybody


def reduce_(values: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    """Replace `values` by their sum, maximum, ... over the ranks, in place, and return them."""
    if group is not None:
        dist.all_reduce(values, op=op, group=group)
    return values


def broadcast_object(mine: _Object) -> _Object:
    """Rank 0's picklable object (a collective); without a process group, this process's."""
    values = [mine]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(values, group=control_group())
    return values[0]


def broadcast_error(call: Callable[[], object] | None) -> DihtError | None:
    """Rank 0 calls; every rank gets the error that it raised, or None (a collective).

    Args:
        call: rank 0's; None on the other ranks.
    """
    found: DihtError | None = None
    if call is not None:
        try:
            call()
        except DihtError as error:
            found = error
    shared = broadcast_object(None if found is None else (int(found.exit_code), str(found)))
    if found is None and shared is not None:
        found = BY_EXIT_CODE.get(shared[0], DihtError)(shared[1])
    return found


def barrier() -> None:
    """Wait for all ranks (a collective); nothing without a process group."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier(group=control_group())


@dataclass(frozen=True)
class StepFlags:
    """What the ranks tell each other during a step, equal on all of them, so that all save and stop in the same one."""

    stop: bool
    """a stop is requested."""
    due: bool
    """a checkpoint is due."""
    busy: bool
    """a checkpoint is still being written."""
    own_seconds: list[float]
    """of each rank, before the first collective of the step before."""
    unusable: int
    """bad samples of all ranks."""


@dataclass(frozen=True)
class FlagsExchange:
    """An exchange of `StepFlags` that has begun: it runs while the device computes."""

    values: Tensor
    world: int
    work: dist.Work | None
    """None: this rank is alone."""

    def wait(self) -> StepFlags:
        """Flags of any rank, the time of each, and the bad samples of all."""
        if self.work is not None:
            self.work.wait()
        stop, due, busy, *each = self.values.tolist()
        return StepFlags(bool(stop), bool(due), bool(busy), each[: self.world], int(sum(each[self.world :])))


def exchange_flags(
    stop: bool, due: bool, busy: bool, own_seconds: float, unusable: int, *, rank: int, world: int
) -> FlagsExchange:
    """Begin to tell the other ranks (a collective of the control group, which has no other use until it is waited
    for).
    """
    values = torch.zeros(3 + 2 * world, dtype=torch.float64)
    values[:3] = torch.tensor([stop, due, busy])
    values[3 + rank], values[3 + world + rank] = own_seconds, unusable
    work = None
    if world > 1:
        work = dist.all_reduce(values, dist.ReduceOp.MAX, group=control_group(), async_op=True)
    return FlagsExchange(values, world, work)
