"""The part of DeepSpeed's untyped engine that the training uses, as a protocol."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from diht_k8s.recipe.train.model.student import Features


class DeepSpeedEngine(Protocol):
    """`deepspeed.DeepSpeedEngine` around a `Student`."""

    optimizer: Any
    """torch's AdamW at ZeRO 0; from stage 1 on ZeRO's wrapper, an untyped class for each stage."""
    device: torch.device

    def __call__(self, images_BCHW: Tensor, tokens_BT: Tensor, max_logit_scale: float) -> Features:
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
