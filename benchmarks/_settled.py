"""Has gloo's collectives return once no thread of gloo holds their tensors any more.

torch's profiler sees releases in the thread that it profiles. A thread of gloo may be the last one to hold a tensor of a
collective that has ended: its release is missed then, now and then, and the tensor counts for ever.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

COLLECTIVES: Final = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "broadcast",
    "reduce",
    "reduce_scatter_tensor",
)
"""Those that the training and DeepSpeed 0.19 use over gloo, and its own that stand for some of them."""
SECONDS: Final = 10.0
"""A collective that has ended is held for microseconds."""


def settle_collectives() -> None:
    """Replace the collectives of `torch.distributed`; before a module takes them over by name."""
    for name in COLLECTIVES:
        setattr(dist, name, _settled(getattr(dist, name)))


class _Work:
    """A collective under way."""

    def __init__(self, work: Any, held: list[tuple[Tensor, int]]) -> None:
        self._work, self._held = work, held

    def wait(self, *arguments: Any) -> Any:
        done = self._work.wait(*arguments)
        self._work = None
        _wait(self._held)
        self._held = []
        return done

    def is_completed(self) -> bool:
        return self._work is None or self._work.is_completed()


def _settled(collective: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective)
    def call(*arguments: Any, **options: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
        held = [(tensor, tensor._use_count()) for tensor in tensors]  # pyright: ignore[reportAttributeAccessIssue]
        work = collective(*arguments, **options)
        if work is None:
            _wait(held)
            return None
        return _Work(work, held)

    return call


def _wait(held: list[tuple[Tensor, int]]) -> None:
    deadline = time.monotonic() + SECONDS
    for tensor, before in held:
        while tensor._use_count() > before:  # pyright: ignore[reportAttributeAccessIssue]
            if time.monotonic() > deadline:
                raise TimeoutError(f"a collective has ended and still holds a tensor of {tuple(tensor.shape)}")
            time.sleep(0)
