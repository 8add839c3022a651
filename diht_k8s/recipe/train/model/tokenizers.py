"""Check for CLIP's byte-pair tokenizer, the only one that the training has. Free of torch and open_clip.

open_clip gives some models a tokenizer of Hugging Face's hub. Trained with CLIP's instead, their text towers would read
other numbers than their own tools later give them, so such models are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diht_k8s.api.errors import UserError


def require_clips_tokenizer(field: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose text side is not CLIP's own.

    Args:
        field: names the model in the message, such as `train.model ViT-B-32`.
        config: its open_clip configuration.

    Raises:
        UserError: it has another tokenizer or text tower.
    """
    text: Mapping[str, Any] = config.get("text_cfg") or {}
    problem = None
    if "multimodal_cfg" in config:
        problem = "is a CoCa, which also generates captions"
    elif text.get("hf_model_name"):
        problem = f"has the text tower {text['hf_model_name']}"
    elif text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        problem = f"needs the tokenizer {text.get('hf_tokenizer_name') or text['tokenizer_kwargs']}"
    elif config.get("custom_text"):
        problem = "has a text tower of its own (custom_text)"
    if problem is not None:
        raise UserError(
            f"{field} {problem}: the training has CLIP's text tower and tokenizer only, choose such a model"
        )
