"""`losses_rank` with the fused loss in Triton's interpreter, on the CPU.

Usage: interpreted_rank.py RANK RANKS FOLDER LOADS. LOADS is `described` or `pointers`: how the kernels get at the features.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from diht_k8s.stages.train.loss import losses
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from tests.recipe.train import losses_rank
from tests.recipe.train.interpreted_plan import small_plan


class Counts(TorchDispatchMode):
    """Bytes that kernels load and store, operations of their products, and kernels, torch's own included."""

    def __init__(self):
        super().__init__()
        self.bytes, self.operations, self.launches = 0, 0, 0
        self._in_kernel, self._wrapped = False, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if self._in_kernel or name in WITHOUT_KERNEL:  # the interpreter's own
            return result
        assert name in ("amax", "sum"), f"{name} is not in the formula"
        self.launches += 1
        self.bytes += 4 * (args[0].numel() + result.numel())
        return result

    def __enter__(self):
        self._wrap(interpreter.interpreter_builder, "create_masked_load", self._count_load)
        self._wrap(interpreter.interpreter_builder, "create_masked_store", self._count_store)
        self._wrap(interpreter.interpreter_builder, "create_dot", self._count_product)
        self._wrap(interpreter.GridExecutor, "__call__", self._count_launch)
        return super().__enter__()

    def __exit__(self, *error):
        for owner, name, method in self._wrapped:
            setattr(owner, name, method)
        return super().__exit__(*error)

    def _wrap(self, owner, name, count):
        method = getattr(owner, name)
        self._wrapped.append((owner, name, method))
        setattr(owner, name, lambda *args, **kwargs: count(method, *args, **kwargs))

    def _transfer(self, pointers, mask):
        used = np.broadcast_to(np.asarray(getattr(mask, "data", mask)), np.shape(pointers.data))
        self.bytes += int(used.sum()) * pointers.get_element_ty().primitive_bitwidth // 8

    def _count_load(self, load, pointers, mask, *args, **kwargs):
        self._transfer(pointers, mask)
        return load(pointers, mask, *args, **kwargs)

    def _count_store(self, store, pointers, value, mask, *args, **kwargs):
        self._transfer(pointers, mask)
        return store(pointers, value, mask, *args, **kwargs)

    def _count_product(self, product, left, right, *args, **kwargs):
        self.operations += 2 * left.data.shape[0] * left.data.shape[1] * right.data.shape[1]
        return product(left, right, *args, **kwargs)

    def _count_launch(self, launch, *args, **kwargs):
        self.launches += 1
        self._in_kernel = True
        launch(*args, **kwargs)
        self._in_kernel = False


WITHOUT_KERNEL = {"empty", "new_empty", "select", "slice", "view", "detach", "_unsafe_view", "ones_like", "alias"}
"""Views and memory; and the 1 with which a backward pass begins."""


def whole(image, text, scale, ids, **settings):
    """Loss, gradients and statistics; surplus rows are longer than any feature and have a caption of a pair."""
    sides = [losses_rank.shared_rows(side, 3.0).requires_grad_() for side in (image, text)]
    own_ids = None if ids is None else losses_rank.shared_rows(ids, int(ids[0]))
    full = HnNceSettings(**settings, chunk_size=1, group=dist.group.WORLD, num_pairs=len(image))
    loss, statistics = losses.hn_nce_loss_and_statistics(*sides, scale.requires_grad_(), full, own_ids)
    return [*losses_rank.with_gradients(loss, *sides, scale), torch.stack(statistics)]


def counted(image, text, scale, ids, **settings):
    """With processors enough for programs that share columns."""
    losses.fused_plan = lambda *_: small_plan("described", processors=40)
    image, text, scale = image.requires_grad_(), text.requires_grad_(), scale.requires_grad_()
    with Counts() as counts:
        loss = losses.hn_nce_loss(image, text, scale, caption_ids_B=ids, **settings)
        torch.autograd.grad(loss, (image, text, scale))
    return counts.bytes, counts.operations, counts.launches


def compiled(image, text, scale, ids, **settings):
    """Loss and gradients of a function that torch compiles."""
    sides = [image.requires_grad_(), text.requires_grad_()]
    loss = torch.compile(losses.hn_nce_loss, backend="aot_eager")(*sides, scale, caption_ids_B=ids, **settings)
    return losses_rank.with_gradients(loss, *sides)


def locked(image, text, scale, ids, *, trained, **settings):
    """Loss, and the gradients of the inputs that are trained."""
    inputs = [each.requires_grad_(wanted) for each, wanted in zip((image, text, scale), trained, strict=True)]
    loss = losses.hn_nce_loss(*inputs, caption_ids_B=ids, **settings)
    return losses_rank.with_gradients(loss, *(each for each in inputs if each.requires_grad))


def main(rank: str, ranks: str, folder: str, loads: str) -> None:
    losses.fused_plan = lambda *_: small_plan(loads)
    losses_rank.KINDS.update(whole=whole, counted=counted, compiled=compiled, locked=locked)
    with np.errstate(all="ignore"):  # lanes behind the ends
        losses_rank.main(rank, ranks, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
