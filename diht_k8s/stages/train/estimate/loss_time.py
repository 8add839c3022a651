"""Time of the losses on a card, by the roofline: operations over its peak, bytes over its bandwidth, gaps between kernels. Pure.

The losses compare all pairs, so the share of the 16-bit peak that the layers reach does not hold for them. What HN-NCE computes
and moves is counted (`loss.cost`): by fused kernels, or, on cards without them, by tiles in plain torch, in fp32. Nothing here
was measured on a card.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from diht_k8s.stages.train.estimate.gpus import Gpu
from diht_k8s.stages.train.loss.blocks import plan_for
from diht_k8s.stages.train.loss.cost import LossCost, fused_cost, tiled_cost
from diht_k8s.stages.train.loss.hn_nce import CHUNK_SIZE

# Shape legend: P pairs of this rank, N pairs of all ranks, D width of the student's embeddings, E of the teacher's.

GAP_SECONDS: Final = 2e-6
"""Between two kernels of a queue. Our assumption, as is the next one."""
CACHE_BYTES_PER_SECOND: Final = 42e9
"""Of the L2 cache for each multiprocessor: 5.5 TB/s on an H100."""


def contrastive_cost(card: Gpu, pairs: int, columns: int, width: int, *, fused: bool = True) -> LossCost:
    """What HN-NCE computes and moves.

    Args:
        card: which.
        pairs: P.
        columns: N.
        width: D.
        fused: by the fused kernels if the card has them, else by tiles in plain torch.
    """
    plan = plan_for(card.capability, card.processors) if fused else None
    return tiled_cost(pairs, columns, width) if plan is None else fused_cost(pairs, columns, width, plan=plan)


def contrastive_seconds(card: Gpu, cost: LossCost) -> float:
    """Time of HN-NCE, forward and backward.

    Tiles are kernels that compute or move, one after the other; a fused kernel does both at once, so the slower one counts.
    """
    if cost.rate == "fp32":
        return _one_after_the_other(card, cost.operations, cost.moved, cost.launches)
    slowest = cost.seconds(
        half_tflops=card.half_tflops,
        fp32_tflops=card.fp32_tflops,
        bandwidth=1e9 * card.gigabytes_per_second,
        l2_bandwidth=CACHE_BYTES_PER_SECOND * card.processors,
    )
    return slowest + GAP_SECONDS * cost.launches


def embedding_seconds(card: Gpu, pairs: int, columns: int, width: int, teacher_width: int) -> float:
    """Time of the loss of `train.distillation.embeddings`, forward and backward, by tiles in plain torch.

    Args:
        card: which.
        pairs: P.
        columns: N.
        width: D.
        teacher_width: E.
    """
    operations, moved, launches = embedding_cost(pairs, columns, width, teacher_width)
    return _one_after_the_other(card, operations, moved, launches)


def embedding_cost(pairs: int, columns: int, width: int, teacher_width: int) -> tuple[int, int, int]:
    """Operations, bytes and kernels of that loss.

    A logit is read or written 80 times. A tile reads the student's texts three times and the teacher's twice, and reads and
    writes the gradient of the former.
    """
    tiles, logits = ceil(pairs / CHUNK_SIZE), pairs * columns
    operations = logits * (8 * width + 4 * teacher_width)
    moved = 4 * (80 * logits + tiles * columns * (5 * width + 2 * teacher_width))
    return operations, moved, 51 + 73 * tiles


def _one_after_the_other(card: Gpu, operations: int, moved: int, launches: int) -> float:
    computing = operations / (1e12 * card.fp32_tflops)
    return computing + moved / (1e9 * card.gigabytes_per_second) + GAP_SECONDS * launches
