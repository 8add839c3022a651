"""Whether a model can start as a ridge regression (`train.textStart: Ridge`), by its configuration. Free of torch and
open_clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diht_k8s.api.errors import UserError

PLAIN_TEXT: Final = frozenset(
    {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
)
"""Of open_clip's `text_cfg`: with others the tower has other parts, or its end token does not see all words."""
CONSTANTS: Final = 3
"""Numbers that an embedding has beside a word's: two constants, and one more so that the word's can sum to zero."""
WIDTH: Final = 512
"""Of a text tower that does not say."""


def ridge_problem(config: Mapping[str, Any]) -> str | None:
    """What about an open_clip configuration is in the way, and what to do; None if nothing is. Open_clip refuses what
    is no number.
    """
    vision: Mapping[str, Any] = config.get("vision_cfg") or {}
    text: Mapping[str, Any] = config.get("text_cfg") or {}
    if not vision.get("timm_model_name") or vision.get("timm_proj", "linear") != "linear":
        return "has no linear projection behind its image tower: take a timm network with vision_cfg.timm_proj linear"
    if others := sorted(text.keys() - PLAIN_TEXT):
        return f"has a text tower with {others[0]}, which is not CLIP's own: remove it"
    embedding, width = config.get("embed_dim"), text.get("width", WIDTH)
    if isinstance(embedding, int) and isinstance(width, int) and width < embedding + CONSTANTS:
        return (
            f"has a text tower {width} wide, but embed_dim {embedding} needs {embedding + CONSTANTS}: "
            "raise text_cfg.width "
            "or lower embed_dim"
        )
    return None


def require_ridge_form(field: str, config: Mapping[str, Any]) -> None:
    """Refuse a model that cannot start as a ridge regression.

    Args:
        field: names the model in the message, such as `train.model ViT-B-32`.
        config: its open_clip configuration.

    Raises:
        UserError: its form is another one.
    """
    if (problem := ridge_problem(config)) is not None:
        raise UserError(f"train.textStart Ridge: {field} {problem}")
