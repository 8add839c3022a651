"""Files of a training's initial weights (`train.initFrom`) and their identity; `warm_start` loads them.

Free of torch: the launcher asks before it starts the ranks, and would hold all that a rank imports, hundreds of MiB, as
long as they run.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import MARKER, join
from diht_k8s.api.train import InitFrom
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.files import CONFIG_NAME, weights_sha256
from diht_k8s.stages.label.teacher_weights import packaged_weights

EXPORTED = "open_clip_model.safetensors"


def weights_file(storage: Storage, start: InitFrom) -> str:
    """The file that identifies the weights: the file itself, a package's, an export's safetensors, a checkpoint's
    marker.

    Raises:
        UserError: the folder holds none of them, or no package does.
    """
    uri = start.uri.rstrip("/")
    if start.names_network:
        if start.kind == "Checkpoint":
            raise UserError(f"train.initFrom {uri} is a network and no checkpoint: remove kind")
        return packaged_weights(uri)
    if start.kind == "Weights" and PurePosixPath(uri).suffix:
        return uri
    for name in (EXPORTED, MARKER):
        if (start.kind == "Weights" or name == MARKER) and storage.exists(join(uri, name)):
            return join(uri, name)
    if start.kind == "Weights":
        raise UserError(
            f"train.initFrom {uri} holds no weights: give a .safetensors or .pt file, the folder "
            "OUTPUT/train/DIGEST/model, or a checkpoint's folder"
        )
    raise UserError(
        f"train.initFrom {uri} is not a committed checkpoint: give the folder OUTPUT/train/DIGEST/checkpoints/step-N"
    )


def preprocessing_of(storage: Storage, start: InitFrom) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` beside the weights: how their model saw images; empty where nothing says it."""
    if start.names_network or start.kind == "Checkpoint":
        return {}
    beside = join(weights_file(storage, start).rpartition("/")[0], CONFIG_NAME)
    if not storage.exists(beside):
        return {}
    try:
        return dict(json.loads(storage.read_bytes(beside)).get("preprocess_cfg") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{beside} is damaged ({error}): write it again, or remove it") from error


def init_identity(storage: Storage, start: InitFrom) -> dict[str, str]:
    """The identity of the first weights among the stage's inputs: digests of a checkpoint or of what a package brings,
    else file size and version.
    """
    place = weights_file(storage, start)
    if start.names_network:
        return {"initFrom": weights_sha256(storage, place)}
    if place.endswith(MARKER):
        parts = json.loads(storage.read_bytes(place))["parts"]
        return {"initFrom": " ".join(part["sha256"] for part in parts)}
    return {"initFrom": storage.identity(place)}
