"""Gangs of a training: the numbers of nodes that it may have, and the operator's decision which of them go on. Pure.

A model with batch statistics (BatchNorm) needs equal parts of a batch: surplus rows would enter the statistics, and
parts of unequal size would weigh alike.

The decision is a value and no call: an annotation of pod 0, which the kubelet writes into a file of that pod. Launcher
0 reads again what it missed; the decision ends with the pod, so that no later attempt finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field

from diht_k8s.api.base import is_object
from diht_k8s.api.train import Train
from diht_k8s.api.wording import counted


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


def gang_sizes(train: Train) -> list[int]:
    """The numbers of nodes that a training may have, fewest first: numNodes alone unless it is elastic."""
    return [*_fewer(train, train.min_nodes or train.num_nodes), train.num_nodes]


def _fewer(train: Train, least: int) -> list[int]:
    """The numbers from `least` on and below numNodes with which it could be trained."""
    any_number = not may_have_batch_statistics(train)
    return [
        nodes
        for nodes in range(least, train.num_nodes)
        if any_number or unequal_parts(train, nodes * train.processes_per_node) is None
    ]


def min_nodes_without_effect(train: Train) -> str | None:
    """Why a training with minNodes goes on with no fewer nodes, and what to do; None if it does, or is not to."""
    least, wished = train.min_nodes, train.num_nodes
    if least is None or least >= wished or _fewer(train, least):
        return None
    name = "the model of train.modelConfig" if train.model is None else f"train.model {train.model}"
    numbers = f"{least} to {wished - 1} nodes" if least < wished - 1 else counted(least, "node")
    settings = "train.batchSize" if train.micro_batch_size is None else "train.batchSize and train.microBatchSize"
    possible = max(_fewer(train, 1), default=None)
    advice = f"lower it to {possible}" if possible is not None else "lower numNodes"
    return (
        f"has no effect, the training waits for all {wished} nodes: {name} may have batch statistics (BatchNorm), "
        "which must "
        f"be of equally many pairs, and the processes of {numbers} do not divide {settings}: {advice}, or change "
        f"{settings}"
    )


def largest(sizes: list[int], nodes: int) -> int | None:
    """The most of some sizes for which `nodes` are enough; None if these are too few for any."""
    return max((size for size in sizes if size <= nodes), default=None)


DECISION_ANNOTATION: Final = "diht.dev/gang"
"""Annotation of pod 0."""
DECISION_FOLDER: Final = "/etc/diht"
DECISION_FILE: Final = "gang"
"""In that folder: the annotation."""
DECISION_VARIABLE: Final = "DIHT_GANG_FILE"
"""In the environment of a gang that resizes in its living pods: the path of that file."""


class GangDecision(BaseModel):
    """Which nodes are no part of a gang."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    without: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = ()
    """completion indexes of their pods, in order."""
    at: float = 0.0
    """when it was decided, seconds since the epoch."""


def decision_in(text: str) -> GangDecision | None:
    """The decision in an annotation or a file; None if there is none."""
    try:
        return GangDecision.model_validate_json(text)
    except ValueError:
        return None
