"""Memory of gradients while they are summed over the ranks, bucket by bucket. Pure.

Follows the hooks of DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py and stage3.py) and of `gradient_reduction`: a
gradient moves into the bucket as it is finished; the one that no longer fits has the bucket summed first. A gradient
that is larger than a bucket stays where it is, and is summed when the next one comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from diht_k8s.stages.train.gradient_reduction import bucket_slices


@dataclass(frozen=True)
class Moment:
    """Bytes that a rank holds at one moment, besides weights, optimiser state and batch."""

    activations: int
    """activations and temporary tensors."""
    gradients: int
    """all that are finished."""


@dataclass(frozen=True)
class Copies:
    """Copies that a sum over the ranks makes, in bytes for each byte of fp32 gradients."""

    full: float
    """of a bucket."""
    alone: float
    """of a gradient larger than a bucket."""


@dataclass(frozen=True)
class Peak:
    """Bytes at the worst moment, besides the buckets."""

    activations: int = 0
    gradients: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.gradients + self.copies


def bucketed_peak(
    moments: Iterable[Moment], *, bucket: int, partition: int, copies: Copies, accumulated: int = 0
) -> Peak:
    """The worst moment of a reduction by DeepSpeed.

    Args:
        moments: by finished gradient; `gradients` grows by its bytes.
        bucket: bytes of one.
        partition: bytes that a rank keeps of the sums, taken at the first sum.
        copies: of a sum.
        accumulated: bytes of gradients that micro-batches left; the moments' gradients are then added in place.
    """
    outside, kept, waiting, before = accumulated, 0, 0, 0
    worst, last = Peak(), 0
    for moment in moments:
        gradient, before, last = moment.gradients - before, moment.gradients, moment.activations
        fresh = 0 if accumulated else gradient
        if waiting and waiting + gradient > bucket:
            worst = _worse(worst, _sum(last, outside + fresh, kept, waiting, bucket, partition, copies))
            outside -= waiting if waiting > bucket else 0
            kept, waiting = partition, 0
        waiting += gradient
        outside += fresh - (gradient if gradient <= bucket else 0)
        worst = _worse(worst, Peak(last, outside + kept))
    return _worse(worst, _sum(last, outside, kept, waiting, bucket, partition, copies))


def overlapped_copies(sizes: Sequence[int], *, elements: int, lowered: bool) -> int:
    """Bytes that ZeRO 0 copies at most: a bucket that is summed and the one that fills.

    Args:
        sizes: elements of the trained parameters, in the model's order.
        elements: of a bucket.
        lowered: summed in bf16; the bucket that fills is then there twice, as parts and joined.
    """
    backward = sizes[::-1]
    buckets = [sum(backward[part]) for part in bucket_slices(backward, elements)]
    travelling, filling = (2, 4) if lowered else (4, 4)
    pairs = (travelling * first + filling * second for first, second in pairwise(buckets))
    return max([filling * max(buckets, default=0), *pairs])


def own_gradients(groups: Iterable[Sequence[int]], ranks: int) -> int:
    """Elements of the gradients that a rank of ZeRO 1 or 2 keeps at most.

    Each group of the optimiser is divided evenly, in its order. A rank keeps whole gradients: also those of which only
    a part is its own (`copy_grads_in_partition`).
    """
    kept = [0] * ranks
    for sizes in groups:
        share, begin = max(1, -(-sum(sizes) // ranks)), 0
        for size in sizes:
            for rank in range(begin // share, (begin + size - 1) // share + 1):
                kept[rank] += size
            begin += size
    return max(kept)


def _sum(activations: int, outside: int, kept: int, waiting: int, bucket: int, partition: int, copies: Copies) -> Peak:
    """A sum: its copies are gone before the partition is taken."""
    copied = int(waiting * (copies.alone if waiting > bucket else copies.full))
    taken = partition - kept
    return Peak(activations, outside + kept + max(0, taken - copied), copied)


def _worse(one: Peak, other: Peak) -> Peak:
    return other if other.total > one.total else one
