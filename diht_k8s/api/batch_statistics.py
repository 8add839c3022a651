"""Models with batch statistics (BatchNorm): which of them a document's text shows, and how they want a batch
divided. Pure.

Surplus rows would enter the statistics, and parts of unequal size would weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from diht_k8s.api.json_types import is_object
from diht_k8s.api.train import Train


class UnequalParts(NamedTuple):
    """Why a model with batch statistics cannot be trained as its settings divide the batch."""

    field: str
    """of `train` that does not fit, as the document writes it."""
    message: str
    """what, and what to do."""


def shows_batch_statistics(train: Train) -> bool:
    """Whether the model is one of open_clip's ResNets, which learns; timm's networks are known to timm alone."""
    if train.lock_image_tower:
        return False
    if train.model_config_ is None:
        return train.model is not None and train.model.startswith("RN")
    vision: Any = train.model_config_.get("vision_cfg")
    if not isinstance(vision, Mapping):
        return False
    form = cast("Mapping[str, Any]", vision)
    return isinstance(form.get("layers"), list) and not form.get("timm_model_name")


def unequal_parts(train: Train, processes: int) -> UnequalParts | None:
    """What is wrong where processes or micro-batches would hold unequally many pairs; None if nothing is.

    Args:
        train: the settings of a model with batch statistics.
        processes: that train it.
    """
    name = "the model of train.modelConfig" if train.model is None else f"train.model {train.model}"
    why = f"{name} has batch statistics (BatchNorm), which must be of equally many pairs"
    batch, micro = train.batch_size, train.micro_batch_size
    if batch % processes:
        advice = f"make train.batchSize {batch} a multiple of the {processes} processes, or change their number"
        return UnequalParts("batchSize", f"{why}: {advice}")
    share = batch // processes
    if micro is not None and micro < share and share % micro:
        advice = f"make train.microBatchSize {micro} a divisor of the {share} pairs of a process"
        return UnequalParts("microBatchSize", f"{why}: {advice}")
    return None


def may_have_batch_statistics(train: Train) -> bool:
    """Whether the model may have a BatchNorm that learns, as far as the document tells.

    open_clip's own ViTs have none, nor have the timm networks in its models of that name; the statistics of a locked
    tower stay as they are.
    """
    if train.lock_image_tower:
        return False
    if train.model is not None:
        return "ViT-" not in train.model
    tower = (train.model_config_ or {}).get("vision_cfg")
    return not is_object(tower) or "timm_model_name" in tower or not isinstance(tower.get("layers", 12), int)
