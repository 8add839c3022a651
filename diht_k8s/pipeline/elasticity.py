"""Elastic gangs: a training that finds no place for all its nodes goes on with those that have one. Pure.

A place on a node with a fault, where no other takes the pod, is none, unless too few are left.

It shrinks by a new attempt, since every rank's part of the work follows from the number of nodes: the gang that waits is
withdrawn, and once it is gone the next attempt is made for fewer. Only that attempt is: whatever ends it, the one after
it wishes for all nodes again. Nothing of this is a restart.
"""

from __future__ import annotations

from diht_k8s.api.gang_sizes import gang_sizes
from diht_k8s.api.run import FailurePolicy
from diht_k8s.api.train import Train
from diht_k8s.pipeline.attempts import Attempt
from diht_k8s.pipeline.quota import within_quota


def resizes_at(policy: FailurePolicy, attempt: Attempt) -> float | None:
    """When a gang of which pods find no node may give way to one of another size, in seconds since the epoch.

    Nodes may come one after another: the wait begins again with each pod that starts, as long as the whole gang is not withdrawn.
    """
    since = attempt.partially_started_at
    if attempt.faulty_since is not None:
        return attempt.faulty_since + policy.elastic_after_seconds
    if since is None:
        return None if attempt.unplaced_since is None else attempt.unplaced_since + policy.elastic_after_seconds
    newest = max(since, attempt.newest_start_at or since)
    return min(newest + policy.elastic_after_seconds, since + policy.scheduling_timeout_seconds)


def resized_to(train: Train | None, policy: FailurePolicy, attempt: Attempt, now: float) -> int | None:
    """The nodes of the gang to which one gives way that has waited for nodes long enough; None while it waits, or has all.

    One that has some goes on with those. One that was shrunk and then found none wishes for all again: what it was shrunk to is
    no longer what there is room for, and it holds nothing. In a queue it wishes for the nodes that it has quota for.
    """
    at = resizes_at(policy, attempt)
    if train is None or train.min_nodes is None or at is None or now < at:
        return None
    if attempt.unplaced_since is not None:
        wish = within_quota(train, None, attempt.quota) or train.num_nodes
        return wish if attempt.pods < wish else None
    return max((nodes for nodes in gang_sizes(train) if nodes <= attempt.placed), default=None)


def expected_resizing(train: Train | None, policy: FailurePolicy, attempt: Attempt) -> tuple[float, int] | None:
    """When a gang that waits will give way if nothing changes, and to how many nodes; None: it waits on, or has all."""
    at = resizes_at(policy, attempt)
    nodes = None if at is None else resized_to(train, policy, attempt, at)
    return None if at is None or nodes is None else (at, nodes)


def share_of(train: Train | None, nodes: int) -> float:
    """The share that some nodes are of those that an elastic training wishes for; 1 for any other."""
    return 1.0 if train is None or train.min_nodes is None else min(1.0, nodes / train.num_nodes)


def lowered_to(
    train: Train | None, policy: FailurePolicy, attempt: Attempt, now: float, before: int | None
) -> int | None:
    """The minCount that is enough for the PodGroup of a gang of which no pod has found a node for long enough.

    None: it asks for all its pods, so that no gang starts small that need not, or some have nodes. `before` is what it was lowered
    to: that stays as long as none has a node, whatever a new operator has seen of its wait.
    """
    at = resizes_at(policy, attempt)
    if (
        train is None
        or train.min_nodes is None
        or at is None
        or not attempt.pod_group
        or attempt.unplaced_since is None
    ):
        return None
    fewest = gang_sizes(train)[0]
    return fewest if fewest < attempt.pods and (before is not None or now >= at) else None


def still_fewer(train: Train | None, nodes: int | None) -> int | None:
    """The number of nodes that was decided on, if the document, as it is now, still has it; None: all that it wishes for."""
    if train is None or train.min_nodes is None or nodes is None:
        return None
    return nodes if train.min_nodes <= nodes < train.num_nodes else None
