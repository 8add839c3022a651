"""How the fused HN-NCE divides its work: sizes of its blocks and the grids of its programs. Pure; needs no Triton.

A program of the first pass owns some image rows and a share of the captions. A program of the second pass owns some rows of one
side, all or a share of the other side, and a part of the width, whose gradient it holds in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

# Shape legend: P pairs of this rank, N pairs of all ranks, D feature width.


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of one pass; powers of two, as Triton wants them."""

    rows: int
    """that a program owns."""
    columns: int
    """of the other side that it compares them with at a time."""
    depth: int
    """features that it loads of both at a time."""
    warps: int
    stages: int
    """loads in flight."""
    gradient: int = 0
    """features of which a program of the second pass holds the gradient, at most."""

    def parts(self, width: int) -> int:
        """Programs that share the gradient's width; each computes the logits again."""
        return max(1, ceil(width / self.gradient)) if self.gradient else 1

    def shares(self, rows: int, columns: int, processors: int, parts: int = 1) -> int:
        """Programs that share a row block's columns, so that each processor of the card has a program."""
        programs = max(1, ceil(rows / self.rows)) * parts
        return max(1, min(processors // programs, ceil(columns / self.columns)))


FIRST_PASS = Blocks(rows=128, columns=128, depth=64, warps=8, stages=3)
SECOND_PASS = Blocks(rows=64, columns=64, depth=64, warps=8, stages=3, gradient=512)
