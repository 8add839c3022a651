"""Gradient caching (GradCache, arXiv 2101.06983): a batch in micro-batches whose loss sees all of it.

Features are computed first, without a graph; the loss and its gradient follow on all of them; then each micro-batch runs
again, with the same random draws, and is differentiated through a surrogate of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diht_k8s.stages.train.model.student import Features


def joined(parts: Sequence[Features]) -> Features:
    """The features of all micro-batches as leaves, whose gradients the loss's backward pass fills."""
    return Features(*(_leaf(parts, field) for field in Features._fields))


def _leaf(parts: Sequence[Features], field: str) -> Any:
    values = [getattr(part, field) for part in parts]
    if values[0] is None:
        return None
    whole = values[0] if values[0].ndim == 0 else torch.cat(values)
    return whole.detach().requires_grad_()


def surrogate(features: Features, whole: Features, part: slice) -> Tensor:
    """A scalar whose weight gradient is this part's share of the loss's: features times cached gradients."""
    total = features.image_BD.new_zeros(())
    for field in Features._fields:
        value, cached = getattr(features, field), getattr(whole, field)
        if value is None or cached.grad is None:
            continue
        if value.ndim:
            total = total + (value * cached.grad[part]).sum()
        elif part.start == 0:  # every part holds the scale, which counts once
            total = total + value * cached.grad
        else:
            total = total + 0.0 * value
    return total
