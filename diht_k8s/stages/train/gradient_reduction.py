"""Gradient all-reduce over the ranks, bucket by bucket, while the backward pass still runs.

DeepSpeed overlaps the two from ZeRO 1 on (`overlap_comm`), with two buckets in turn. At ZeRO 0 it sums after the backward
pass, in one copy of all gradients: there the buckets are ours. torch's DistributedDataParallel is not used, because it
makes other buckets after the first step: with three ranks or more a resumed training would then sum in another order
than one that was not interrupted.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

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
