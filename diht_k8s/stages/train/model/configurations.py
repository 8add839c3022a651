"""The configuration of a training's model: the one place that says whether a model can be trained, and why not.

It reads open_clip's files, since importing it takes seconds. Free of torch and open_clip.

CLIP's byte-pair tokenizer is the only one that the training has. open_clip gives some models a tokenizer of Hugging
Face's hub. Trained with CLIP's instead, their text towers would read other numbers than their own tools later give
them, so such models are refused by name.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.api.train import CLIPS_ONLY, Train

PLAIN_TEXT: Final = frozenset(
    {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
)
"""Of open_clip's `text_cfg`: with others the tower has other parts, or its end token does not see all words."""
CONSTANTS: Final = 3
"""Numbers that an embedding has beside a word's: two constants, and one more so that the word's can sum to zero."""
WIDTH: Final = 512
"""Of a text tower that does not say."""


def model_configuration(train: Train) -> dict[str, Any]:
    """The open_clip configuration of a run's model.

    Raises:
        UserError: open_clip does not know the name, the configuration has the wrong form, the text side is not CLIP's,
            timm would download the image tower or its weights, or the model cannot start as a ridge regression and has
            to.
        ImportError: open_clip, which knows the name, is not installed.
    """
    name = "train.modelConfig" if train.model is None else f"train.model {train.model}"
    config = _packaged(train.model) if train.model is not None else copy.deepcopy(train.model_config_ or {})
    if missing := [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]:
        raise UserError(f"{name} lacks {', '.join(missing)}: see open_clip's model configurations")
    if (problem := tokenizer_problem(config)) is not None:
        raise UserError(f"{name} {problem}: {CLIPS_ONLY}")
    _require_packaged(name, config["vision_cfg"])
    if train.text_start == "Ridge" and (problem := ridge_problem(config)) is not None:
        raise UserError(f"train.textStart Ridge: {name} {problem}")
    config["quick_gelu"] = False
    if (size := train.stages[-1].image_size if train.stages else train.image_size) is not None:
        config["vision_cfg"]["image_size"] = size
    if train.patch_dropout:
        config["vision_cfg"]["patch_dropout"] = train.patch_dropout
    return config


def _packaged(model: str) -> dict[str, Any]:
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ImportError("open_clip is not installed: install the extra recipe of this package")
    folder = Path(package.submodule_search_locations[0]) / "model_configs"
    names = sorted(path.stem for path in folder.glob("*.json"))
    if model not in names:
        hint = suggestion(model, names, "see its model configurations, or set train.modelConfig")
        raise UserError(f"train.model {model} is not known to open_clip: {hint}")
    return json.loads((folder / f"{model}.json").read_text())


def learns_in_timm(train: Train) -> bool:
    """Whether the image tower is a network of timm's that learns.

    Raises:
        UserError: the model cannot be trained.
    """
    vision = model_configuration(train)["vision_cfg"]
    return not train.lock_image_tower and bool(vision.get("timm_model_name"))


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


def _require_packaged(name: str, vision: Any) -> None:
    """Refuse what timm would fetch, in each process, and while a document is only checked.

    Args:
        name: of the model, for the message.
        vision: `vision_cfg` of its configuration.

    Raises:
        UserError: it names a network of a hub or a folder, or asks for timm's weights.
    """
    if not isinstance(vision, dict):
        raise UserError(f"{name}: vision_cfg must be a mapping: see open_clip's model configurations")
    form = cast("dict[str, Any]", vision)
    network = str(form.get("timm_model_name") or "")
    if ":" in network:
        raise UserError(f"{name}: timm_model_name {network} is not in timm's package: name one of `timm.list_models()`")
    if network and form.get("timm_model_pretrained"):
        raise UserError(
            f"{name}: timm_model_pretrained would have each process download weights: remove it, and give them by "
            f"train.initFrom (uri: timm/{network})"
        )


def ridge_problem(config: Mapping[str, Any]) -> str | None:
    """Why a model cannot start as a ridge regression (`train.textStart: Ridge`), and what to do; None if it can.
    open_clip refuses what is no number.
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
