"""`losses_rank` with the fused loss in Triton's interpreter, on the CPU.

LOADS is `described` or `pointers`: how the kernels get at the
features.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import numpy as np
import torch
import torch.distributed as dist

from diht_k8s.stages.train.loss import losses
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import LossBlocks, LossPlan
from tests.recipe.train import losses_rank


def whole(image, text, scale, ids, **settings):
    """Loss, gradients and statistics; surplus rows are longer than any feature and have a caption of a pair."""
    sides = [losses_rank.shared_rows(side, 3.0).requires_grad_() for side in (image, text)]
    own_ids = None if ids is None else losses_rank.shared_rows(ids, int(ids[0]))
    full = HnNceSettings(**settings, chunk_size=1, group=dist.group.WORLD, num_pairs=len(image))
    loss, statistics = losses.hn_nce_loss_and_statistics(*sides, scale.requires_grad_(), full, own_ids)
    return [*losses_rank.with_gradients(loss, *sides, scale), torch.stack(statistics)]


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


def main(folder: str, loads: str) -> None:
    # Small batches fill these blocks more than once; with few processors a program has more than one block of columns.
    first, second = LossBlocks(32, 16, 16, 4, 1), LossBlocks(16, 32, 16, 4, 1, chunks=2)
    losses.fused_plan = lambda *_: LossPlan(first, second, processors=3, described=loads == "described")
    losses_rank.KINDS.update(whole=whole, compiled=compiled, locked=locked)
    with np.errstate(all="ignore"):  # lanes behind the ends
        losses_rank.main(folder)
