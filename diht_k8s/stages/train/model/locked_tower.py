"""An image tower that does not learn (`train.lockImageTower`), beside the student and no part of it.

So nothing that walks through the student's weights meets it: no gradient, optimiser state, average, ZeRO partition or
checkpoint. It is always in evaluation mode, which freezes the statistics of BatchNorm. Checkpoints hold its digest; the export
puts its weights back.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor, nn

# B images, C channels, H height, W width of the images and of the features.


class LockedTower:
    """A frozen image tower, or its part before the projection."""

    def __init__(self, module: nn.Module, prefix: str) -> None:
        """Freeze a module.

        Args:
            module: BxCxHxW images -> features, BxW where they are pooled.
            prefix: of its weights' names in the student.
        """
        self.module = module.eval().requires_grad_(False)
        self.prefix = prefix

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The features, on the images' device, to which the tower moves when it is first used there."""
        if next(self.module.parameters()).device != images_BCHW.device:
            self.module.to(images_BCHW.device)
        with torch.no_grad():
            return self.module(images_BCHW)

    def state(self) -> dict[str, Tensor]:
        """All its weights and statistics under their names in the student, on the CPU."""
        return {f"{self.prefix}{key}": value.cpu() for key, value in self.module.state_dict().items()}

    @cached_property
    def sha256(self) -> str:
        """Digest (hex) of names, types, shapes and numbers."""
        digest = hashlib.sha256()
        for key, value in self.state().items():
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def elements(self) -> int:
        """Numbers that it holds."""
        return sum(value.numel() for value in self.module.state_dict().values())
