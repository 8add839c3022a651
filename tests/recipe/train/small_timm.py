"""Small networks of timm that drop parts of their biases of positions, for all images alike; timm's own have tens of millions of weights."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.swin_transformer_v2_cr import SwinTransformerV2Cr
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

SIDE = 32


@register_model
def small_vit_relpos(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **settings: Any,
) -> nn.Module:
    made: Any = VisionTransformerRelPos(SIDE, patch_size=8, embed_dim=32, depth=2, num_heads=2, **settings)
    made.default_cfg = {}
    return made


@register_model
def small_swinv2_cr(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **settings: Any,
) -> nn.Module:
    made: Any = SwinTransformerV2Cr(
        (SIDE, SIDE), patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(1, 2), **settings
    )
    made.default_cfg = {}
    return made
