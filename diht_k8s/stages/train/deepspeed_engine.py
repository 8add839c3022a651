"""DeepSpeed for a training: its configuration, the part of its untyped engine that is used, and the sum of gradients at
ZeRO 0.

The all-reduce of gradients runs bucket by bucket, while the backward pass still runs. DeepSpeed overlaps the two from
ZeRO 1 on (`overlap_comm`), with two buckets in turn. At ZeRO 0 it sums after the backward pass, in one copy of all
gradients: there the buckets are ours. torch's DistributedDataParallel is not used, because it makes other buckets after
the first step: with three ranks or more a resumed training would then sum in another order than one that was not
interrupted.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.model.student import Features, Student
from diht_k8s.stages.train.precision import DTYPES


class DeepSpeedEngine(Protocol):
    """`deepspeed.DeepSpeedEngine` around a `Student`."""

    optimizer: Any
    """torch's AdamW at ZeRO 0; from stage 1 on ZeRO's wrapper, an untyped class for each stage."""
    device: torch.device

    def __call__(
        self, images: Tensor, tokens_BT: Tensor, max_logit_scale: float, taught_BT: Tensor | None = None
    ) -> Features:
        """The student's forward pass."""
        ...

    def zero_optimization_stage(self) -> int:
        """The ZeRO stage, 0 to 3."""
        ...

    def backward(self, loss: Tensor) -> object:
        """The backward pass; reduces gradients over the ranks."""
        ...

    def step(self) -> object:
        """Clip, step the optimiser and clear the gradients at an accumulation boundary."""
        ...

    def zero_grad(self) -> object:
        """Clear the gradients."""
        ...

    def get_global_grad_norm(self) -> Any:
        """The gradient norm of the last step before clipping; None before the first one."""
        ...

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> object:
        """Whether the next `step` steps the optimiser."""
        ...

    def train(self) -> object:
        """Set training mode."""
        ...

    def eval(self) -> object:
        """Set evaluation mode."""
        ...


def deepspeed_settings(train: Train, *, micro_batch: int, world: int, parameters: int) -> dict[str, Any]:
    """The configuration.

    Args:
        train: of the run document.
        micro_batch: rows that one process passes through the model at once, at most.
        world: number of processes.
        parameters: of the model, in all.
    """
    bucket = bucket_elements(parameters)
    parts = -(-BatchShare(train.batch_size, 0, world).rows // micro_batch)
    settings: dict[str, Any] = {
        # DeepSpeed wants whole micro-batches of all ranks: what surplus rows and a shorter last part lack is counted
        # in.
        "train_batch_size": micro_batch * parts * world,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": parts,
        # At ZeRO 0 it would wait for the device twice, and take the norm that the engine has: there the engine clips.
        "gradient_clipping": train.optimizer.gradient_clip_norm if train.zero_stage > 0 else 0.0,
        "zero_optimization": {
            "stage": train.zero_stage,
            "stage3_param_persistence_threshold": 0,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # A second bucket fills while the first one is summed; a single process has nothing to wait for.
            "overlap_comm": world > 1,
            **_offloading(train),
        },
        "communication_data_type": train.gradient_reduction,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it would synchronise the device twice a step
        "wall_clock_breakdown": False,
    }
    if train.precision == "bf16":
        # Autocast keeps fp32 weights and norms, so checkpoints hold one precision.
        # fp16 has its own (see `Student`): DeepSpeed would clip before it unscales, with a scale for each rank.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        if train.zero_stage < 3 or train.gradient_reduction == "fp32":
            settings["torch_autocast"]["lower_precision_safe_modules"] = []
    return settings


def reduce_alike(model: Student, train: Train) -> None:
    """Have the ZeRO stages sum all gradients in `train.gradientReduction`.

    DeepSpeed 0.19: ZeRO 0 takes `communication_data_type`; from stage 1 on, once any engine of the process has had
    autocast, each parameter's `comm_dtype` counts instead (runtime/base_optimizer.py, runtime/torch_autocast.py). Stage
    3 also gathers weights in it, so there DeepSpeed sets it, and only for layers that autocast computes in bf16 anyway.
    """
    if train.zero_stage < 3:
        for parameter in model.parameters():
            parameter.comm_dtype = DTYPES[train.gradient_reduction]  # pyright: ignore[reportAttributeAccessIssue]


def _offloading(train: Train) -> dict[str, Any]:
    """DeepSpeed's settings for `train.offload`; the run document's rules require the ZeRO stage."""
    if train.offload == "None":
        return {}
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    moved = {"offload_optimizer": place}
    return {**moved, "offload_param": place} if train.offload == "Parameters" else moved


MAX_BUCKET_ELEMENTS: Final = 2**24
"""64 MiB in fp32: far above what makes an all-reduce efficient, far below any model that needs more than one GPU."""
BUCKETS_IN_FLIGHT: Final = 2
"""Copies of a bucket at once: one is summed over the ranks while the next one fills."""


def bucket_elements(parameters: int) -> int:
    """Elements of a bucket for a model of N parameters; a parameter that is larger travels alone.

    At most a quarter of the model, so that the reduction begins early; even, as DeepSpeed wants it.
    """
    return max(2, min(MAX_BUCKET_ELEMENTS, parameters // 4) // 2 * 2)


class OverlappedReduction:
    """Averages the gradients of plain parameters over the world's group during a backward pass (ZeRO 0)."""

    def __init__(self, parameters: Iterable[nn.Parameter], dtype: torch.dtype, *, elements: int) -> None:
        """Hang a hook into each parameter.

        Args:
            parameters: those that are trained, in the order of the forward pass; the same on all ranks.
            dtype: in which gradients are summed.
            elements: of a bucket at most, unless a single parameter has more.
        """
        self._dtype = dtype
        backward = list(parameters)[::-1]
        sizes = [parameter.numel() for parameter in backward]
        self._buckets = [backward[part] for part in bucket_slices(sizes, elements)]
        self._active = False
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._ready(number))

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Average the gradients of the backward pass inside, and what was accumulated before it (a collective)."""
        self._missing = [len(bucket) for bucket in self._buckets]
        self._next, self._active = 0, True
        self._travelling: deque[tuple[list[Tensor], Tensor, dist.Work]] = deque()
        try:
            yield
        finally:
            self._active = False
        while self._next < len(self._buckets):  # parameters without a gradient in this pass
            self._begin()
        while self._travelling:
            self._end()

    def _ready(self, number: int) -> None:
        if not self._active:
            return
        self._missing[number] -= 1
        # In one order on all ranks, whatever order the gradients come in.
        while self._next < len(self._buckets) and not self._missing[self._next]:
            self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Send the next bucket."""
        if len(self._travelling) == BUCKETS_IN_FLIGHT:
            self._end()
        gradients = []
        for parameter in self._buckets[self._next]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.reshape(-1).to(self._dtype) for gradient in gradients])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None, "every rank belongs to the group"
        self._travelling.append((gradients, flat, work))
        self._next += 1

    @torch.no_grad()
    def _end(self) -> None:
        """Put the oldest bucket's sums back; on a GPU its queue waits for them, not the host."""
        gradients, flat, work = self._travelling.popleft()
        work.wait()
        flat.mul_(1.0 / dist.get_world_size())
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def bucket_slices(sizes: Sequence[int], elements: int) -> list[slice]:
    """Buckets of consecutive parameters.

    Args:
        sizes: elements of each parameter.
        elements: of a bucket at most, unless a single parameter has more.
    """
    buckets: list[slice] = []
    total = 0
    for number, size in enumerate(sizes):
        if buckets and total + size <= elements:
            buckets[-1] = slice(buckets[-1].start, number + 1)
            total += size
        else:
            buckets.append(slice(number, number + 1))
            total = size
    return buckets
