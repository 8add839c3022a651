"""Elastic gangs: a training that finds no place for all its nodes goes on with those that have one. Pure.

A place on a node with a fault, where no other takes the pod, is none, unless too few are left.

With `failurePolicy.restart: Recreate` it shrinks by a new attempt: the gang that waits is withdrawn, and once it is
gone the next attempt is made for fewer. Only that attempt is: whatever ends it, the one after it asks for all nodes
again.

With `InPlace` its Job keeps all pods, those that find no node stay pending, and launchers go on with those that have
one (see `runtime.in_place.rounds`) as soon as it is decided here. It grows in the same way. Nothing of this is a
restart.

Quota may be granted in two parts, the fewest nodes and the rest. Less quota shrinks the training at once, by a new
attempt. More makes it grow, since its queue would count nodes that it does not use; but not soon after its start, and
only where that saves more time than the start of another attempt takes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from diht_k8s.api.gangs import gang_sizes, largest
from diht_k8s.api.run import FailurePolicy
from diht_k8s.api.train import Train
from diht_k8s.pipeline.attempts import Attempt, AttemptState, LivingGang
from diht_k8s.pipeline.run_status import StageRecord


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


RESTART_S: Final = 60.0
"""What a restart in place is taken to cost where the newest start was not measured (our choice)."""


def resizes_at(policy: FailurePolicy, attempt: Attempt) -> float | None:
    """When a gang of which pods find no node may give way to one of another size, in seconds since the epoch.

    Nodes may come one after another: the wait begins again with each pod that starts, as long as the whole gang is not
    withdrawn.
    """
    since = attempt.partially_started_at
    if attempt.faulty_since is not None:
        return attempt.faulty_since + policy.elastic_after_seconds
    if since is None:
        return None if attempt.unplaced_since is None else attempt.unplaced_since + policy.elastic_after_seconds
    newest = max(since, attempt.newest_start_at or since)
    return min(newest + policy.elastic_after_seconds, since + policy.scheduling_timeout_seconds)


def resized_to(train: Train | None, policy: FailurePolicy, attempt: Attempt, now: float) -> int | None:
    """The nodes of the gang to which one gives way that has waited for nodes long enough; None while it waits, or has
    all.

    One that has some goes on with those. One that was shrunk and then found none wishes for all again: what it was
    shrunk to is no longer what there is room for, and it holds nothing. In a queue it wishes for the nodes that it has
    quota for.
    """
    at = resizes_at(policy, attempt)
    if train is None or train.min_nodes is None or at is None or now < at:
        return None
    if attempt.unplaced_since is not None:
        wish = within_quota(train, None, attempt.quota) or train.num_nodes
        return wish if attempt.pods < wish else None
    return largest(gang_sizes(train), attempt.placed)


def expected_resizing(train: Train | None, policy: FailurePolicy, attempt: Attempt) -> tuple[float, int] | None:
    """When a gang that waits will give way or go on if nothing changes, and on how many nodes; None: it waits on, or
    has all.
    """
    gang, here = attempt.living_gang, resizes_in_place_at(policy, attempt)
    if gang is not None and not gang.whole and here is not None:
        nodes = largest(_sizes(train, gang), len(gang.placed)) if 0 in gang.placed else None
        return None if nodes is None else (here, nodes)
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

    None: it asks for all its pods, so that no gang starts small that need not, or some have nodes. `before` is what it
        was lowered
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
    """The number of nodes that was decided on, if the document, as it is now, still has it; None: all that it wishes
    for.
    """
    if train is None or train.min_nodes is None or nodes is None:
        return None
    return nodes if train.min_nodes <= nodes < train.num_nodes else None


def in_place(train: Train | None, attempt: Attempt) -> Attempt:
    """The attempt as it is to be judged: one whose pods are enough to go on in place does not give way to another."""
    gang = attempt.living_gang
    if gang is None or not (gang.whole or largest(_sizes(train, gang), len(gang.placed))):
        return attempt
    return replace(attempt, partially_started_at=None, unplaced_since=None)


def resized_in_place(
    train: Train | None, policy: FailurePolicy, record: StageRecord, attempt: Attempt, now: float
) -> tuple[int, ...] | None:
    """The nodes without which a gang is to go on from now on in its living pods, by index; None: as it does.

    Where a node of it is gone for `elasticAfterSeconds`, it goes on with as many as are allowed of those that are
    there. Where others run, it takes them in, at most every `elasticEverySeconds`, unless the rest of the training is
    over about as soon.
    """
    gang, at = attempt.living_gang, resizes_in_place_at(policy, attempt)
    if gang is None or at is None or now < at or 0 not in gang.placed:
        return None
    there = gang.placed if not gang.whole else gang.running | gang.members
    size = largest(_sizes(train, gang), len(there))
    if size is None or (
        gang.whole and (size <= len(gang.members) or not _is_worth(train, record, len(gang.members), size))
    ):
        return None
    kept = sorted(there)[:size]
    return tuple(node for node in range(gang.nodes) if node not in kept)


def resizes_in_place_at(policy: FailurePolicy, attempt: Attempt) -> float | None:
    """When a gang may be resized in its living pods, in seconds since the epoch; None: it has nothing to gain."""
    gang = attempt.living_gang
    if gang is None:
        return None
    if not gang.whole:
        return gang.changed_at + policy.elastic_after_seconds
    if gang.running <= gang.members:
        return None
    return 0.0 if gang.decided_at is None else gang.decided_at + policy.elastic_every_seconds


def _sizes(train: Train | None, gang: LivingGang) -> list[int]:
    """The numbers of nodes that a gang may have; an edit of the document gives its Job no further pods."""
    if train is None or train.min_nodes is None:
        return [gang.nodes]
    whole = train.model_copy(update={"num_nodes": max(gang.nodes, train.min_nodes)})
    return [nodes for nodes in gang_sizes(whole) if nodes <= gang.nodes]


def _is_worth(train: Train | None, record: StageRecord, nodes: int, more: int) -> bool:
    """Whether more nodes spare more of the rest of the training than the restart costs them."""
    if train is None or not record.work.position:
        return True
    rest = train.samples / train.batch_size - record.work.position
    seconds = rest * record.work.seconds / record.work.position
    return seconds * (1 - nodes / more) > (sum(record.time.start_up.values()) or RESTART_S)
