"""The numbers of nodes that a training may have. Pure."""

from __future__ import annotations

from diht_k8s.api.batch_statistics import may_have_batch_statistics, unequal_parts
from diht_k8s.api.train import Train


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
    numbers = f"{least} to {wished - 1} nodes" if least < wished - 1 else f"{least} node{'s' if least > 1 else ''}"
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
