"""Blocks for Triton's interpreter."""

from __future__ import annotations

from diht_k8s.stages.train.loss.blocks import LossBlocks, LossPlan


def small_plan(loads):
    """Blocks that small batches fill more than once, in both directions and in the width.

    Their processors are few, so that a program has more than one block of columns.

    Args:
        loads: `described` or `pointers`, how kernels get at the features.
    """
    first, second = LossBlocks(32, 16, 16, 4, 1), LossBlocks(16, 32, 16, 4, 1, chunks=2)
    return LossPlan(first, second, processors=3, described=loads == "described")
