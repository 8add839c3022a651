"""A CLIP model as `CLIPModel.from_pretrained` of `transformers` reads it: configuration, weights, tokenizer, processor.

Names and defaults are those of `transformers.models.clip`, which is not needed to write them. It has OpenAI's
architecture only: two transformers, a linear projection behind each.

Shapes: O output, I input features of a linear layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import is_weights
from diht_k8s.models.loading import load_model

if TYPE_CHECKING:
    import torch

Json = dict[str, Any]

VISION: Final = frozenset({"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"})
"""Fields of open_clip's `vision_cfg` that `transformers` has too, or that change nothing after the training."""
TEXT: Final = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"})
MODEL: Final = frozenset(
    {"embed_dim", "custom_text", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale", "init_logit_bias"}
)
VOCABULARY: Final = 49_408
"""Tokens of OpenAI's BPE, two of which mark begin and end."""
RESAMPLING: Final = {"bilinear": 2, "bicubic": 3}
"""Numbers of Pillow's filters."""
OUTSIDE: Final = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
"""Weights outside of the layers, by open_clip's name."""
TRANSPOSED: Final = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
"""Projections, which open_clip stores as [I, O]."""
LAYER: Final = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Modules of a layer."""
TOWERS: Final = {"transformer.resblocks.": "text_model", "visual.transformer.resblocks.": "vision_model"}


def convert(source: str, folder: str, storage: Storage, *, architecture: str | None = None) -> list[str]:
    """Write a model for `transformers`; the weights keep their values and their type.

    Args:
        source: anything that `load_model` takes.
        folder: where the files go.
        storage: how to reach both.
        architecture: see `load_model`.

    Returns:
        The files written.

    Raises:
        UserError: a file is there already, or `CLIPModel` of transformers cannot hold this model.
        DataError: see `load_model`.
    """
    import open_clip

    if is_weights(folder):
        raise UserError(f"{folder} is the name of a file: name a folder")
    loaded = load_model(source, storage, architecture=architecture)
    weights = {
        key: value.detach().cpu().contiguous() for key, value in loaded.model.state_dict().items() if key != "attn_mask"
    }
    preprocess = cast("Json", open_clip.get_model_preprocess_cfg(loaded.model))
    files = transformers_files(loaded.config, preprocess, weights, loaded.name)
    for name in files:
        if storage.exists(join(folder, name)):
            raise UserError(f"{join(folder, name)} exists: remove it or choose another target")
    for name, content in files.items():
        storage.write_bytes(join(folder, name), content)
    return [join(folder, name) for name in files]


def transformers_files(
    config: Json, preprocess: Json, weights: Mapping[str, torch.Tensor], name: str
) -> dict[str, bytes]:
    """The files of the folder by name.

    Args:
        config: open_clip's `model_cfg`.
        preprocess: its `preprocess_cfg`.
        weights: its state dict.
        name: of the model, for the card and for errors.

    Raises:
        UserError: the model is not of OpenAI's architecture, or `CLIPImageProcessor` has no such preprocessing; the
            message names the field.
    """
    from safetensors.torch import save

    _refuse_others(config, preprocess, name)
    # open_clip nests the text tower of some architectures
    plain = {key.removeprefix("text."): value for key, value in weights.items()}
    renamed = dict(_renamed(plain, name))
    return {
        "config.json": _json(_config(config, plain)),
        "model.safetensors": save(renamed, metadata={"format": "pt"}),
        "preprocessor_config.json": _json(_processor(preprocess)),
        **_tokenizer(config["text_cfg"].get("context_length", 77)),
        "README.md": _card(name).encode(),
    }


def _refuse_others(config: Json, preprocess: Json, name: str) -> None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    settings = [
        *((f"vision_cfg.{key}", value) for key, value in vision.items() if key not in VISION),
        *((f"text_cfg.{key}", value) for key, value in text.items() if key not in TEXT),
        *((key, value) for key, value in config.items() if key not in MODEL),
    ]
    other = next((f"{key} {json.dumps(value)}" for key, value in settings if value not in (None, False)), None)
    if other is None and isinstance(vision.get("layers"), list):
        other = "a ResNet"
    if other is None and text.get("vocab_size", VOCABULARY) != VOCABULARY:
        other = f"a vocabulary of {text['vocab_size']:,} tokens"
    if other is not None:
        raise UserError(f"{name} has {other}, and CLIPModel of transformers has not")
    mode, interpolation = preprocess.get("resize_mode", "shortest"), preprocess["interpolation"]
    if mode not in ("shortest", "squash") or interpolation not in RESAMPLING:
        raise UserError(
            f"{name} resizes images by {mode}, {interpolation}, and CLIPImageProcessor of transformers cannot"
        )


def _config(config: Json, weights: Mapping[str, torch.Tensor]) -> Json:
    vision, text = config["vision_cfg"], config["text_cfg"]
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    kind = str(weights["visual.conv1.weight"].dtype).removeprefix("torch.")
    towers = {
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": VOCABULARY,
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_size": text.get("width", 512),
            "intermediate_size": int(text.get("width", 512) * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
            "pad_token_id": VOCABULARY - 1,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": vision.get("width", 768),
            "intermediate_size": int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": vision.get("width", 768) // vision.get("head_width", 64),
        },
    }
    common = {"hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": config["embed_dim"]}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "logit_scale_init_value": float(weights["logit_scale"].float().mean()),
        "dtype": kind,
        **{tower: {**own, **common} for tower, own in towers.items()},
    }


def _renamed(weights: Mapping[str, torch.Tensor], name: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in weights.items():
        prefix = next((prefix for prefix in TOWERS if key.startswith(prefix)), None)
        if prefix is not None:
            number, _, rest = key.removeprefix(prefix).partition(".")
            yield from _of_layer(f"{TOWERS[prefix]}.encoder.layers.{number}", rest, value)
        elif key in TRANSPOSED:
            yield TRANSPOSED[key], value.T.contiguous()
        elif key in OUTSIDE:
            yield OUTSIDE[key], value
        elif key != "logit_bias":  # of a sigmoid loss: CLIPModel has none, and features do not need it
            raise UserError(f"{name} has the weight {key}, and CLIPModel of transformers has not")


def _of_layer(layer: str, rest: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        for part, rows_OI in zip("qkv", value.chunk(3), strict=True):
            yield f"{layer}.self_attn.{part}_proj.{kind}", rows_OI.contiguous()
        return
    module, _, kind = rest.rpartition(".")
    yield f"{layer}.{LAYER[module]}.{kind}", value


def _processor(preprocess: Json) -> Json:
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    squash = preprocess.get("resize_mode") == "squash"
    return {
        # Pillow's resizing, as open_clip's; that of the default on tensors differs by a grey level here and there
        "image_processor_type": "CLIPImageProcessorPil",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": min(height, width)},
        "resample": RESAMPLING[preprocess["interpolation"]],
        "do_center_crop": not squash,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [*preprocess["mean"]],
        "image_std": [*preprocess["std"]],
    }


def _tokenizer(context: int) -> dict[str, bytes]:
    """OpenAI's BPE, whose two last tokens `transformers` names otherwise."""
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokens, merges = [*[*tokenizer.encoder][:-2], begin, end], [" ".join(pair) for pair in tokenizer.bpe_ranks]
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end}
    settings = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": context, "do_lower_case": True}
    return {
        "vocab.json": _json({token: number for number, token in enumerate(tokens)}),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(special),
    }


def _card(name: str) -> str:
    return f"""---
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags:
- clip
- diht
---

# {name}

A CLIP model, trained and written by diht-k8s. Its evaluation stands in the run's report.

```python
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("FOLDER")
processor = CLIPProcessor.from_pretrained("FOLDER")
```
"""


def _json(value: Json) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
