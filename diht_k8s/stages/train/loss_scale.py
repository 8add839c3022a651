"""Dynamic loss scaling, which fp16 needs. Pure.

In fp16 small gradients become 0 and large ones infinite. So the loss is multiplied by a scale before it goes backward,
and the gradients are divided by it before they are clipped. The scale is halved in a step with non-finite gradients, which
is skipped, and doubled after a while without one. The scaler is ours, not torch's GradScaler, because its two numbers belong
to the checkpoint and every rank and ZeRO stage must scale alike; T4 cards have no bf16, so fp16 stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

LOSS_SCALE: Final = "loss_scale"
"""Key of the scaling in a training's state."""
FIRST_SCALE: Final = 2.0**16
GROWTH_STEPS: Final = 2000
"""Good steps after which the scale is doubled. All three numbers are those of torch's GradScaler."""
MIN_SCALE: Final = 1.0
"""Below it fp16 gains nothing: gradients that are not finite even here are not for want of range."""


@dataclass
class LossScale:
    """The scale of the next step."""

    scale: float = FIRST_SCALE
    good_steps: int = 0
    """steps since the scale changed."""

    def update(self, *, overflow: bool) -> None:
        """Take in whether the gradients of a step were not finite, on any rank."""
        if overflow:
            self.scale, self.good_steps = max(self.scale / 2, MIN_SCALE), 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0

    def state(self) -> Tensor:
        """The scaling as a tensor, which `of` reads."""
        return torch.tensor([self.scale, self.good_steps], dtype=torch.float64)

    @staticmethod
    def of(state: Tensor) -> LossScale:
        """The scaling of a checkpoint."""
        scale, good_steps = state.tolist()
        return LossScale(scale, int(good_steps))
