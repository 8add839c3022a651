"""Export: the trained towers in open_clip's layout (safetensors and configuration), with the concept heads beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.data.normalisation import MEAN, STD

FILES = ("model/open_clip_config.json", "model/open_clip_model.safetensors", "concept_heads.safetensors")


def export(storage: Storage, layout: Layout, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """Write the model; returns the paths relative to the stage's folder.

    `open_clip.create_model_and_transforms("local-dir:FOLDER/model")` loads it.
    """
    towers, heads = {}, {}
    for key, value in state.items():
        name = key.removeprefix("buffer|")
        if name.startswith("clip.") and "|" not in name:
            towers[name.removeprefix("clip.")] = value.squeeze(0) if name == "clip.logit_scale" else value
        elif name.startswith(("object_head.", "attribute_head.")) and "|" not in name:
            heads[name] = value
    towers.pop("attn_mask", None)
    description = {
        "model_cfg": {**config, "vision_cfg": {k: v for k, v in config["vision_cfg"].items() if k != "patch_dropout"}},
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    contents = [json.dumps(description, indent=1).encode(), save(_contiguous(towers)), save(_contiguous(heads))]
    written = [name for name in FILES if heads or name != FILES[2]]
    for name, content in zip(FILES, contents, strict=True):
        if name in written:
            storage.write_bytes(join(layout.stage(Stage.TRAIN), name), content)
    return written


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tensors.items()}
