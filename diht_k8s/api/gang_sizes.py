"""The numbers of nodes that a training may have. Pure."""

from __future__ import annotations

from diht_k8s.api.batch_statistics import may_have_batch_statistics, unequal_parts
from diht_k8s.api.train import Train


def gang_sizes(train: Train) -> list[int]:
    """The numbers of nodes that a training may have, fewest first: numNodes alone unless it is elastic."""
    any_number = not may_have_batch_statistics(train)
    fewer = [
        nodes
        for nodes in range(train.min_nodes or train.num_nodes, train.num_nodes)
        if any_number or unequal_parts(train, nodes * train.processes_per_node) is None
    ]
    return [*fewer, train.num_nodes]
