"""Quota of an elastic training that is granted in two parts, the fewest nodes and the rest: its size follows what it
has. Pure.

Less quota shrinks it at once, by a new attempt. More makes it grow, since its queue would count nodes that it does not
use; but not soon after its start, and only where that saves more time than the start of another attempt takes.
"""

from __future__ import annotations

from diht_k8s.api.gang_sizes import gang_sizes, largest
from diht_k8s.api.run import FailurePolicy
from diht_k8s.api.train import Train
from diht_k8s.pipeline.attempts import Attempt, AttemptState


def largest_size(train: Train, nodes: int) -> int | None:
    """The most nodes of a training of which there are `nodes`; None if these are too few."""
    return largest(gang_sizes(train), nodes)


def within_quota(train: Train | None, nodes: int | None, quota: int | None) -> int | None:
    """The nodes of the next attempt, which would have `nodes` (None: all) if there were quota for them."""
    if train is None or train.min_nodes is None or quota is None or quota >= (nodes or train.num_nodes):
        return nodes
    return largest_size(train, quota)


def resized_by_quota(
    train: Train, policy: FailurePolicy, attempt: Attempt, quota: int | None, now: float
) -> int | None:
    """The nodes of the gang to which one gives way whose quota has changed; None if it goes on.

    Without quota for its fewest nodes it is stopped, as any other training that its queue evicts.
    """
    if quota is None or attempt.quota is None:
        return None
    nodes = largest_size(train, quota)
    if attempt.pods > quota:
        return nodes or gang_sizes(train)[0]
    return nodes if nodes is not None and may_grow(train, policy, attempt, nodes, now) else None


def may_grow(
    train: Train, policy: FailurePolicy, attempt: Attempt, nodes: int, now: float, *, unknown: bool = False
) -> bool:
    """Whether a gang that only its quota keeps from having `nodes` would give way to one that has them.

    `unknown` is the answer where only its program's report is missing of how long the rest takes.
    """
    if attempt.quota is None or attempt.started_at is None or attempt.state is not AttemptState.RUNNING:
        return False
    by_quota = attempt.pods == largest_size(train, attempt.quota)
    late = now >= attempt.started_at + policy.elastic_every_seconds
    return by_quota and nodes > attempt.pods and late and _saves_time(attempt, nodes, unknown=unknown)


def _saves_time(attempt: Attempt, nodes: int, *, unknown: bool) -> bool:
    """Whether the rest of the work becomes shorter by more than a start takes; `unknown` while either is."""
    times, spent = attempt.times, attempt.spent
    if times is None or times.admitted is None or times.running is None or spent is None or attempt.remaining_s is None:
        return unknown
    start_s = times.running - times.admitted + spent.starting
    return attempt.remaining_s * (1 - attempt.pods / nodes) > start_s
