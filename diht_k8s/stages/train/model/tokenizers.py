"""Check for CLIP's byte-pair tokenizer, the only one that the training has. Free of torch and open_clip.

open_clip gives some models a tokenizer of Hugging Face's hub. Trained with CLIP's instead, their text towers would read
other numbers than their own tools later give them, so such models are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import CLIPS_ONLY


def tokenizer_problem(config: Mapping[str, Any]) -> str | None:
    """What about an open_clip configuration needs another tokenizer or text tower; None if nothing does."""
    text: Mapping[str, Any] = config.get("text_cfg") or {}
    if "multimodal_cfg" in config:
        return "is a CoCa, which also generates captions"
    if text.get("hf_model_name"):
        return f"has the text tower {text['hf_model_name']}"
    if text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs"):
        return f"needs the tokenizer {text.get('hf_tokenizer_name') or text['tokenizer_kwargs']}"
    if config.get("custom_text"):
        return "has a text tower of its own (custom_text)"
    return None


def require_clips_tokenizer(field: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose text side is not CLIP's own.

    Args:
        field: names the model in the message, such as `train.model ViT-B-32`.
        config: its open_clip configuration.

    Raises:
        UserError: it has another tokenizer or text tower.
    """
    if (problem := tokenizer_problem(config)) is not None:
        raise UserError(f"{field} {problem}: {CLIPS_ONLY}")
