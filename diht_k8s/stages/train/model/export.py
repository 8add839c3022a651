"""Export: the trained towers in open_clip's layout (safetensors and configuration), with the concept heads beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save
from torch import Tensor

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation

FILES = ("model/open_clip_config.json", "model/open_clip_model.safetensors", "concept_heads.safetensors")


@dataclass(frozen=True)
class ModelDescription:
    """What open_clip needs beside the weights."""

    config: Mapping[str, Any]
    """open_clip's `model_cfg`."""
    normalisation: Normalisation = CLIPS

    def document(self) -> dict[str, Any]:
        """The content of `open_clip_config.json`."""
        vision = {key: value for key, value in self.config["vision_cfg"].items() if key != "patch_dropout"}
        seen = self.normalisation.preprocessing()
        return {"model_cfg": {**self.config, "vision_cfg": vision}, "preprocess_cfg": seen}


def export(storage: Storage, layout: Layout, model: ModelDescription, state: Mapping[str, Tensor]) -> list[str]:
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
    contents = [json.dumps(model.document(), indent=1).encode(), save(_contiguous(towers)), save(_contiguous(heads))]
    written = [name for name in FILES if heads or name != FILES[2]]
    for name, content in zip(FILES, contents, strict=True):
        if name in written:
            storage.write_bytes(join(layout.stage(Stage.TRAIN), name), content)
    return written


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in tensors.items()}
