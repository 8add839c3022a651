"""Image towers that take images smaller than their position embedding, for the stages of a training's resolution.

The parameter keeps the grid of the last size all the time, so checkpoints, moments and export know one form. Smaller
images see it resampled as open_clip resamples weights (bicubic, antialiased), by a product with a constant matrix:
torch has no deterministic gradient of an interpolation on GPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from diht_k8s.api.errors import UserError

POSITIONS = "positional_embedding"
REDUCTION = 32
"""Pixels of a side that a ResNet turns into one place of its last map."""


def take_sizes(tower: nn.Module, sizes: Sequence[int]) -> None:
    """Have an image tower of open_clip's take images of some sizes.

    Args:
        tower: for the largest of them; changed in place.
        sizes: sides in pixels.

    Raises:
        UserError: the tower is another one, or an image is too small for it.
    """
    visual: Any = tower
    if isinstance(tower, VisionTransformer):
        holder, step = visual, visual.patch_size[0]
    elif isinstance(tower, ModifiedResNet):
        holder, step = visual.attnpool, REDUCTION
    else:
        raise UserError(
            "train.stages needs an image tower of open_clip's own, a ViT or a ResNet, whose positions can be "
            "resampled: "
            "choose such a model, or remove stages"
        )
    if min(sizes) < step:
        raise UserError(
            f"train.stages: images of {min(sizes)} pixels are smaller than a patch of {step}: raise imageSize"
        )
    _resampled_forward(holder, 1 if holder is not visual else step)


def _resampled_forward(holder: Any, step: int) -> None:
    """Replace the forward of the module that adds the positions; a parameter is read in it, when ZeRO has gathered
    it.
    """
    whole: Callable[..., Any] = holder.forward
    side = round((getattr(holder, POSITIONS).shape[0] - 1) ** 0.5)

    def forward(x_BCHW: Tensor) -> Any:
        now = x_BCHW.shape[-1] // step
        if now == side:
            return whole(x_BCHW)
        # an attribute of the instance goes before the parameter of that name
        holder.__dict__[POSITIONS] = resampled(getattr(holder, POSITIONS), side, now)
        try:
            return whole(x_BCHW)
        finally:
            del holder.__dict__[POSITIONS]

    holder.forward = forward


def resampled(positions_PW: Tensor, side: int, new_side: int) -> Tensor:
    """A position embedding for another grid; its first row, of the class or the mean, stays.

    Args:
        positions_PW: 1 + side * side rows.
        side: of its grid.
        new_side: of the wanted grid.
    """
    matrix_QP = _matrix(side, new_side, positions_PW.device, positions_PW.dtype)
    return torch.cat([positions_PW[:1], matrix_QP @ positions_PW[1:]])


@functools.cache
def _matrix(side: int, new_side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What bicubic interpolation with antialiasing does to a grid, as a matrix of new_side**2 x side**2."""
    with torch.no_grad():
        units = torch.eye(side * side, dtype=torch.float64).view(side * side, 1, side, side)
        size = (new_side, new_side)
        columns = nn.functional.interpolate(units, size=size, mode="bicubic", antialias=True, align_corners=False)
        return columns.view(side * side, new_side * new_side).T.to(device=device, dtype=dtype).contiguous()
