"""An open_clip configuration from the shapes of a checkpoint's weights alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

from diht_k8s.api.errors import UserError

HEAD_WIDTH: Final = 64
"""Width of an attention head in all published CLIP models; the shapes do not determine it."""

Shapes = Mapping[str, tuple[int, ...]]


def infer_config(shapes: Shapes, uri: str) -> dict[str, Any]:
    """The configuration of a plain CLIP (ViT or ModifiedResNet image tower, GPT-like text tower, exact GELU).

    Args:
        shapes: key of the state dict -> shape.
        uri: for the error message.

    Raises:
        UserError: the weights are of another kind of model.
    """
    try:
        width = shapes["ln_final.weight"][0]
        return {
            "embed_dim": shapes["text_projection"][1],
            "quick_gelu": False,
            "vision_cfg": _vit(shapes) if "visual.proj" in shapes else _resnet(shapes),
            "text_cfg": {
                "context_length": shapes["positional_embedding"][0],
                "vocab_size": shapes["token_embedding.weight"][0],
                "width": width,
                "heads": max(1, width // HEAD_WIDTH),
                "layers": _blocks(shapes, "transformer.resblocks."),
            },
        }
    except KeyError as error:
        raise UserError(
            f"{uri}: its shapes do not determine its architecture ({error.args[0]} is missing): "
            "put open_clip_config.json beside it, or name the architecture"
        ) from error


def _vit(shapes: Shapes) -> dict[str, Any]:
    width, _, _, patch = shapes["visual.conv1.weight"]
    grid = isqrt(shapes["visual.positional_embedding"][0] - 1)
    return {
        "width": width,
        "patch_size": patch,
        "image_size": patch * grid,
        "layers": _blocks(shapes, "visual.transformer.resblocks."),
        "head_width": min(HEAD_WIDTH, width),
    }


def _resnet(shapes: Shapes) -> dict[str, Any]:
    grid = isqrt(shapes["visual.attnpool.positional_embedding"][0] - 1)
    return {
        "width": shapes["visual.layer1.0.conv1.weight"][0],
        "image_size": grid * 32,
        "layers": [_blocks(shapes, f"visual.layer{number}.") for number in (1, 2, 3, 4)],
    }


def _blocks(shapes: Shapes, prefix: str) -> int:
    return len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})
