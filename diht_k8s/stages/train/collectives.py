"""Collectives over NCCL or gloo, outside autograd: rows for the losses, objects, errors, and the flags of a step.

The losses differentiate by hand, so nothing here records a graph. Without a process group a function returns its input.

Devices and process groups of a rank: its accelerator, the group for gradients and features, the one for control.

The rank sets its device before the first collective, and NCCL's group is bound to it (`device_id`): NCCL refuses
tensors of another device, and everything that names no device (object collectives, barriers, pinned memory) uses the
current one. Gradients and features travel over the world's group (NCCL, on CPUs gloo). Objects, requests and barriers
travel over a gloo group beside it, so that they never touch the device or wait for its queue.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import torch
import torch.distributed as dist
import torch.utils.deterministic
from torch import Tensor
from torch.distributed import distributed_c10d

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError

BACKENDS: Final = {"cpu": "gloo", "cuda": "nccl"}
"""Backend of the world's group by device type."""

CONTROL_TIMEOUT_S: Final = 1800

_control: dist.ProcessGroup | None = None


def device_type() -> str:
    """Type of the device that this machine trains on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_device() -> torch.device:
    """This rank's GPU (LOCAL_RANK), or the CPU."""
    kind = device_type()
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))


def set_this_device() -> torch.device:
    """Make this rank's device the current one of the calling thread; torch begins each thread with device 0."""
    device = this_device()
    if device.type != "cpu":
        torch.get_device_module(device).set_device(device)
    return device


def choose_algorithms(mode: str) -> None:
    """Take deterministic algorithms or the fastest ones, as `train.deterministic` says.

    Auto takes deterministic ones on CPUs, where a training that was killed and resumed is then equal to the bit. On
    GPUs they cost time, and the collectives' order of summation stays free anyway.
    """
    on = mode == "Enabled" or (mode == "Auto" and device_type() == "cpu")
    if on and device_type() == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(on, warn_only=True)
    # Filling memory only helps to find kernel bugs and costs a tenth of a step. torch adds the property at run time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def init_process_groups(timeout_s: int = 600) -> None:
    """Set this rank's device and initialise the process groups (a collective), also for DeepSpeed.

    Args:
        timeout_s: of a collective, in every group. Over the control group it is at least half an hour: there ranks also
            wait for the upload of a checkpoint.
    """
    global _control
    # Not at the top: the losses are imported without DeepSpeed, which takes seconds.
    import deepspeed
    import deepspeed.ops

    device = set_this_device()
    backend = BACKENDS[device.type]
    if not dist.is_initialized():
        timeout = timedelta(seconds=timeout_s)
        # Groups that others make without a time-out take these: DeepSpeed's clones of the world, device meshes.
        distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
        dist.init_process_group(backend, timeout=timeout, device_id=None if device.type == "cpu" else device)
        group = (
            None
            if device.type == "cpu"
            else dist.new_group(backend="gloo", timeout=timedelta(seconds=max(timeout_s, CONTROL_TIMEOUT_S)))
        )
        assert not isinstance(group, int), "every rank belongs to the group"
        _control = group
    # Needs a compiler at start-up and only speeds up CPU collectives inside one host.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def control_group() -> dist.ProcessGroup | None:
    """The group for objects and control, whose tensors lie on the CPU; None: the world's, which then is gloo too."""
    return _control


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether another rank was lost: NCCL raises torch's own errors, gloo names itself in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


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
