"""Has gloo's collectives return once no thread of gloo holds their tensors.

torch's profiler misses a release there, and would count the tensor for ever.
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
SECONDS: Final = 1.0
"""A collective that has ended is held for microseconds, on a busy machine for some tenths of a second."""


def settle_collectives() -> None:
    """Replace the collectives of `torch.distributed`; before a module takes them over by name."""
    for name in COLLECTIVES:
        setattr(dist, name, _settled(getattr(dist, name)))


class _Work:
    """A collective under way."""

    def __init__(self, work: Any, held: list[tuple[Tensor, int]]) -> None:
        self._work: Any = work
        self._held = held

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
        held = [(tensor, _holders(tensor)) for tensor in tensors]
        work = collective(*arguments, **options)
        if work is None:
            _wait(held)
            return None
        return _Work(work, held)

    return call


def _holders(tensor: Tensor) -> int:
    """Who keeps the bytes: holders of this tensor, and of others on the same bytes, since gloo also makes views."""
    private: Any = torch._C
    own: Any = tensor
    return own._use_count() + private._storage_Use_Count(tensor.untyped_storage()._cdata)


def _wait(held: list[tuple[Tensor, int]]) -> None:
    """Until the holders are those from before the collective; not for ever, since this thread may have made some,
    too.
    """
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and any(_holders(tensor) > before for tensor, before in held):
        time.sleep(0.0001)
