"""How the fused HN-NCE divides its work: sizes of its blocks by kind of card, and the grids of its programs. Needs no
Triton.

A program of the first pass owns some image rows and a share of the captions. A program of the second pass owns some
rows of one side, all or a share of the other side, and a part of the width, whose gradient it holds in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

VECTOR: Final = 1024
"""Numbers of a program of the kernels without products."""

# Shape legend: P pairs of this rank, N pairs of all ranks, D feature width.


@dataclass(frozen=True, slots=True)
class LossBlocks:
    """Sizes of one pass; powers of two, as Triton wants them."""

    rows: int
    """that a program owns."""
    columns: int
    """of the other side that it compares them with at a time."""
    depth: int
    """features that it loads of both at a time."""
    warps: int
    stages: int
    """blocks that are loaded ahead, the one in use included."""
    chunks: int = 0
    """of `depth` features, of which a program of the second pass holds the gradient at most."""

    def row_blocks(self, rows: int) -> int:
        """Programs along the rows; one where there are none, which writes the sums of nothing."""
        return max(1, ceil(rows / self.rows))

    def parts(self, width: int) -> tuple[int, int]:
        """(programs that share the gradient's width, chunks of each); each of them computes the logits again."""
        chunks = ceil(width / self.depth)
        parts = ceil(chunks / self.chunks)
        return parts, ceil(chunks / parts)

    def shares(self, rows: int, columns: int, processors: int, parts: int = 1) -> int:
        """Programs that share the columns of a row block, so that all processors of the card have one."""
        return max(1, min(processors // (self.row_blocks(rows) * parts), ceil(columns / self.columns)))


@dataclass(frozen=True, slots=True)
class LossPlan:
    """What the kernels of a card need to know of it."""

    first: LossBlocks
    second: LossBlocks
    processors: int
    """streaming multiprocessors."""
    described: bool
    """whether blocks are loaded by the tensor memory accelerator, from descriptors."""


def plan_for(capability: tuple[int, int], processors: int) -> LossPlan | None:
    """The plan for a card; None where the kernels do not run.

    The sizes fit each card's shared memory and registers, as compiled by Triton 3.7 (`benchmarks/loss_precision.py`);
    their speed was not measured.

    Args:
        capability: compute capability, (major, minor).
        processors: streaming multiprocessors.
    """
    if capability < (8, 0):
        return None
    if capability[0] == 9:  # H100, H200: 227 KiB
        return LossPlan(
            LossBlocks(128, 128, 64, 8, 3), LossBlocks(64, 64, 128, 8, 2, chunks=4), processors, described=True
        )
    if capability[0] == 10:  # B200: 227 KiB, and sums lie in 512 columns of tensor memory
        return LossPlan(
            LossBlocks(128, 128, 64, 8, 2), LossBlocks(64, 64, 128, 8, 2, chunks=2), processors, described=True
        )
    return LossPlan(
        LossBlocks(128, 128, 32, 8, 3), LossBlocks(64, 32, 64, 8, 2, chunks=4), processors, described=False
    )  # 99 KiB
