"""Watches the bytes of tensors while operations make and release them; works on real and on fake tensors.

torch's MemTracker reports its peaks alone. ZeRO changes what gradients hold and not what activations do, so that the
estimate needs both at each moment.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diht_k8s.recipe.train.estimate.reduction import Moment


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and release."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.moments: list[Moment] = []
        self._held: dict[int, int] = {}
        self._references: dict[int, Any] = {}
        self._gradients: set[int] = set()
        self._other, self._of_gradients = 0, 0
        self._known = {parameter.untyped_storage()._cdata for parameter in [*model.parameters(), *model.buffers()]}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._mark)
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

    @property
    def now(self) -> Moment:
        """What is held now."""
        return Moment(self._other, self._of_gradients)

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        self.moments.append(self.now)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._held or key in self._known:
            return
        self._held[key] = storage.nbytes()
        self._other += storage.nbytes()
        self._references[key] = weakref.ref(storage, lambda _: self._release(key))

    def _release(self, key: int) -> None:
        size = self._held.pop(key)
        del self._references[key]
        if key in self._gradients:
            self._gradients.remove(key)
            self._of_gradients -= size
        else:
            self._other -= size

    def _mark(self, parameter: Tensor) -> None:
        """Count a finished gradient as one."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._held and key not in self._gradients:
            self._gradients.add(key)
            self._other -= self._held[key]
            self._of_gradients += self._held[key]
            self.moments.append(self.now)
