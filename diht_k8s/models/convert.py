"""Conversion of any model that `load_model` takes to a folder of open_clip or transformers, a weights file or a released-style checkpoint."""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath
from typing import Any, Final, cast

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.architecture import infer_config
from diht_k8s.models.files import CONFIG_NAME, is_weights
from diht_k8s.models.loading import LoadedModel, load_model
from diht_k8s.models.released import SUFFIX, check_layout, digest_name
from diht_k8s.models.transformers_layout import transformers_files

LAYOUTS: Final = ("open_clip", "transformers")
WEIGHTS_NAME: Final = "open_clip_model.safetensors"


def convert(
    source: str, target: str, storage: Storage, *, architecture: str | None = None, layout: str | None = None
) -> list[str]:
    """Write a model in another layout; the weights keep their values and their type.

    Args:
        source: anything that `load_model` takes.
        target: a folder (configuration and safetensors), `NAME.safetensors` (weights alone) or `NAME.ckpt` (the released
            DiHT layout: the file becomes `NAME_SHA256.ckpt`).
        storage: how to reach both.
        architecture: see `load_model`.
        layout: of a folder: one of `LAYOUTS`; open_clip's if unset.

    Returns:
        The files written.

    Raises:
        UserError: the target's type is unknown, the target exists, or the layout cannot hold this model.
        DataError: see `load_model`.
    """
    suffix = PurePosixPath(target).suffix
    if is_weights(target) and suffix not in (".safetensors", SUFFIX):
        raise UserError(f"{target}: models are written as a folder, .safetensors or {SUFFIX}: choose one of them")
    if layout is not None and (is_weights(target) or layout not in LAYOUTS):
        raise UserError(f"{target}: the layouts of folders are {', '.join(LAYOUTS)}: name a folder and one of them")
    loaded = load_model(source, storage, architecture=architecture)
    files = _files(loaded, target, suffix, layout)
    for uri in files:
        if storage.exists(uri):
            raise UserError(f"{uri} exists: remove it or choose another target")
    for uri, content in files.items():
        storage.write_bytes(uri, content)
    return list(files)


def _files(loaded: LoadedModel, target: str, suffix: str, layout: str | None) -> dict[str, bytes]:
    from safetensors.torch import save

    weights = {
        key: value.detach().cpu().contiguous() for key, value in loaded.model.state_dict().items() if key != "attn_mask"
    }
    if suffix == SUFFIX:
        return _released(loaded, target, weights)
    if suffix == ".safetensors":
        return {target: save(weights)}
    if layout == "transformers":
        made = transformers_files(loaded.config, _preprocess(loaded), weights, loaded.name)
        return {join(target, name): content for name, content in made.items()}
    document = json.dumps({"model_cfg": loaded.config, "preprocess_cfg": _preprocess(loaded)}, indent=1)
    return {join(target, CONFIG_NAME): document.encode(), join(target, WEIGHTS_NAME): save(weights)}


def _released(loaded: LoadedModel, target: str, weights: dict[str, Any]) -> dict[str, bytes]:
    import torch

    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    check_layout(loaded.config, infer_config(shapes, loaded.name), loaded.name)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    content = buffer.getvalue()
    folder, slash, name = target.rpartition("/")
    return {f"{folder}{slash}{digest_name(name.removesuffix(SUFFIX), content)}": content}


def _preprocess(loaded: LoadedModel) -> dict[str, Any]:
    import open_clip

    return cast("dict[str, Any]", open_clip.get_model_preprocess_cfg(loaded.model))
