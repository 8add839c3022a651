"""Normalisation of images by mean and deviation of CLIP's or of a network's own training, on their device."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import Train

# Shape legend: B batch, C channels (3), H height, W width.

Colour = tuple[float, ...]
"""A number of each channel, for pixels from 0 to 1."""


GREY: Final = (123, 117, 104)
"""CLIP's mean in bytes: replaces an image that cannot be used."""


class Normalisation(NamedTuple):
    """Mean and deviation of the pixels with which a tower was trained."""

    mean: Colour
    std: Colour

    def preprocessing(self) -> dict[str, Any]:
        """open_clip's `preprocess_cfg` of a model that sees images so."""
        return {**self._asdict(), "interpolation": "bicubic", "resize_mode": "shortest"}


CLIPS: Final = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def normalisation_of(
    train: Train, config: Mapping[str, Any], stored: Mapping[str, Any] = MappingProxyType({})
) -> Normalisation:
    """What a training asks for, or else what its first weights were trained with.

    Args:
        train: the settings.
        config: the model's configuration.
        stored: open_clip's `preprocess_cfg` beside the first weights.

    Raises:
        UserError: that of a network is asked for, and the image tower is none of timm's.
    """
    asked, start = train.normalisation, train.init_from
    if asked is None and stored.get("mean") and stored.get("std"):
        return Normalisation(tuple(stored["mean"]), tuple(stored["std"]))
    if asked is None:
        asked = "Network" if start is not None and start.names_network else "CLIP"
    if asked == "CLIP":
        return CLIPS
    name = config["vision_cfg"].get("timm_model_name")
    if name is None:
        raise UserError(
            "train.normalisation Network: the image tower is none of timm's: name one in "
            "modelConfig.vision_cfg.timm_model_name"
        )
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(name)
    return CLIPS if found is None else Normalisation(tuple(found.mean), tuple(found.std))


@functools.cache
def _rows(of: Normalisation, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a row of pixels; `torch.tensor(..., device=...)` would wait for the device each time."""
    mean, std = ((torch.tensor(value) * 255).repeat(width).to(device, non_blocking=True) for value in of)
    return mean, std


def normalised(pixels_BHWC: Tensor, dtype: torch.dtype = torch.float32, *, of: Normalisation = CLIPS) -> Tensor:
    """Images B x C x H x W (channels last in memory) of uint8 pixels, on their device: computed in fp32, then
    rounded.
    """
    batch, height, width, channels = pixels_BHWC.shape
    # whole rows instead of a last dimension of 3, which no kernel vectorises
    mean_row, std_row = _rows(of, width, pixels_BHWC.device)
    rows = pixels_BHWC.reshape(batch, height, width * channels)
    if pixels_BHWC.device.type == "cpu":  # image by image: three times as fast, because each stays in the cache
        images = torch.empty(rows.shape, dtype=dtype)
        wide = torch.empty(rows.shape[1:])
        for row, image in zip(rows, images, strict=True):
            torch.div(torch.sub(row, mean_row, out=wide), std_row, out=image)
    else:
        images = torch.sub(rows, mean_row).div_(std_row).to(dtype)
    return images.view(batch, height, width, channels).permute(0, 3, 1, 2)
