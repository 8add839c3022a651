"""Elastic gangs: a training that finds no place for all its nodes goes on with those that have one. Pure.

It shrinks by a new attempt, since every rank's part of the work follows from the number of nodes: the gang that waits is
withdrawn, and once it is gone the next attempt is made for fewer. Only that attempt is: whatever ends it, the one after
it wishes for all nodes again. Nothing of this is a restart.
"""

from __future__ import annotations

from diht_k8s.api.gang_sizes import gang_sizes
from diht_k8s.api.run import FailurePolicy
from diht_k8s.api.train import Train
from diht_k8s.pipeline.attempts import Attempt


def shrinks_at(policy: FailurePolicy, partially_started_at: float) -> float:
    """When a gang that has started partially may go on with fewer nodes, in seconds since the epoch."""
    return partially_started_at + min(policy.elastic_after_seconds, policy.scheduling_timeout_seconds)


def nodes_left(train: Train | None, policy: FailurePolicy, attempt: Attempt, now: float) -> int | None:
    """The nodes with which a gang goes on that has waited for others long enough; None while it waits for them, or has all."""
    since = attempt.partially_started_at
    if train is None or train.min_nodes is None or since is None or now < shrinks_at(policy, since):
        return None
    return max((nodes for nodes in gang_sizes(train) if nodes <= attempt.placed), default=None)


def still_fewer(train: Train | None, nodes: int | None) -> int | None:
    """The number of nodes that was decided on, if the document, as it is now, still has it; None: all that it wishes for."""
    if train is None or train.min_nodes is None or nodes is None:
        return None
    return nodes if train.min_nodes <= nodes < train.num_nodes else None
