"""open_clip's model configurations by its files, since importing it takes seconds. Free of torch and open_clip.

CLIP's byte-pair tokenizer is the only one that the training has. open_clip gives some models a tokenizer of Hugging
Face's hub. Trained with CLIP's instead, their text towers would read other numbers than their own tools later give
them, so such models are refused by name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.api.train import CLIPS_ONLY, Train


def read_configuration(train: Train) -> tuple[str, dict[str, Any]]:
    """The field that names a training's model, such as `train.model ViT-B-32`, and the model's configuration as it is
    written.

    Raises:
        UserError: open_clip does not know the name, or is not installed.
    """
    if train.model is None:
        return "train.modelConfig", train.model_config_ or {}
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise UserError("open_clip is not installed: install the extra recipe of this package")
    folder = Path(package.submodule_search_locations[0]) / "model_configs"
    names = sorted(path.stem for path in folder.glob("*.json"))
    if train.model not in names:
        hint = suggestion(train.model, names, "see its model configurations, or set train.modelConfig")
        raise UserError(f"train.model {train.model} is not known to open_clip: {hint}")
    return f"train.model {train.model}", json.loads((folder / f"{train.model}.json").read_text())


def learns_in_timm(train: Train) -> bool:
    """Whether the image tower is a network of timm's that learns.

    Raises:
        UserError: open_clip does not know the name, or is not installed.
    """
    vision = read_configuration(train)[1].get("vision_cfg")
    return not train.lock_image_tower and isinstance(vision, dict) and bool(vision.get("timm_model_name"))


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
