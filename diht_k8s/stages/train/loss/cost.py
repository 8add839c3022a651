"""What HN-NCE costs a card in a step: products, bytes and kernels, for the tiles in plain torch and for the fused kernels.

Closed formulas of P pairs of a rank, N pairs of all ranks and the width D, for fp32 features, beta > 0 and gradients of both sides,
of the scale and through the weights. Tests compare them with operators, loads, stores and products that were counted
(`test_loss_cost`, `test_hn_nce_fused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from diht_k8s.stages.train.loss.blocks import VECTOR, LossBlocks, LossPlan, plan_for
from diht_k8s.stages.train.loss.hn_nce import CHUNK_SIZE

# Shape legend: P pairs of this rank, N pairs of all ranks, D feature width.

H100: Final = plan_for((9, 0), processors=132)
_TERMS: Final = 3
"""16-bit products for one of fp32: high x high, high x low, low x high."""
_WORD: Final = 4
"""bytes of fp32, and of the high and the low half of a feature."""


@dataclass(frozen=True, slots=True)
class LossCost:
    """Forward and backward of one rank."""

    products: int
    """P x N x D products that the card computes, those of recomputed logits included."""
    operations: int
    """of all products, 2 P N D each."""
    rate: Literal["half", "fp32"]
    """the card's peak that bounds them: of 16-bit tensor cores, or of fp32 without TF32."""
    moved: int
    """bytes between the card's memory and its kernels, where each kernel reads and writes an operand once."""
    requested: int
    """bytes that the kernels load and store; the L2 cache serves what exceeds `moved`."""
    launches: int
    """kernels; collectives and what packs their surplus rows are not counted."""

    def seconds(self, *, half_tflops: float, fp32_tflops: float, bandwidth: float, l2_bandwidth: float) -> float:
        """A lower bound. Torch's operators follow each other; in a fused kernel products, memory and cache work at once.

        Args:
            half_tflops: dense peak of 16-bit products.
            fp32_tflops: peak of fp32 products.
            bandwidth: of the card's memory, bytes a second.
            l2_bandwidth: of its L2 cache, bytes a second.
        """
        if self.rate == "fp32":
            return self.operations / (1e12 * fp32_tflops) + self.moved / bandwidth
        return max(self.operations / (1e12 * half_tflops), self.moved / bandwidth, self.requested / l2_bandwidth)


def tiled_cost(pairs: int, columns: int, width: int, *, chunk_size: int = CHUNK_SIZE) -> LossCost:
    """Of the tiles in plain torch (`hn_nce`), no captions masked. Within 3 % for 16,384 pairs and more: what
    does not grow with their square, or with a tile's texts, is left out.

    An operator reads its inputs and writes its output once. Kernels come one after the other, and fp32 products take no TF32.

    Args:
        pairs: P, of this rank.
        columns: N, of all ranks.
        width: D.
        chunk_size: rows of a tile.
    """
    tiles, logits, texts = ceil(pairs / chunk_size), pairs * columns, columns * width
    # A logit is read and written 23 times in the first pass and 28 times in the second; a tile reads the texts 4 times and writes
    # them once.
    moved = _WORD * (51 * logits + 5 * tiles * texts)
    return LossCost(4, 8 * logits * width, "fp32", moved, moved, 111 + 68 * tiles)


def fused_cost(pairs: int, columns: int, width: int, *, plan: LossPlan | None = H100, masked: bool = False) -> LossCost:
    """Of the fused kernels (`hn_nce_fused`).

    Args:
        pairs: P, of this rank.
        columns: N, of all ranks.
        width: D.
        plan: of the card.
        masked: whether equal captions are masked.

    Raises:
        ValueError: the kernels do not run on this card.
    """
    if plan is None:
        raise ValueError("the fused kernels do not run on this card")
    stride = ceil(width / 8) * 8
    of_images = _SecondPass(pairs, columns, width, stride, plan, masked)
    of_texts = _SecondPass(columns, pairs, width, stride, plan, masked)
    row_blocks = plan.first.row_blocks(pairs)
    shares = plan.first.shares(pairs, columns, plan.processors)

    sides = pairs + columns
    split = _WORD * sides * (width + stride)
    # sums of a share's rows and of a row block's columns, logits of the pairs
    sums = _WORD * (4 * shares * pairs + 3 * row_blocks * columns + pairs)
    identities = 8 if masked else 0
    once = (_WORD * stride + identities) * sides + _WORD
    blocks = _loads(pairs, columns, plan.first, _WORD * stride + identities) + _WORD * row_blocks * shares
    # peaks, rebased sums, terms of rows and columns, means
    row_words = (4 if masked else 3) * shares + 1 + 1 + 7 + 6
    column_words = (row_blocks + 1) + (1 + 3 * row_blocks + 2) + (3 + 2 + 7)
    most = ceil(pairs / VECTOR) + ceil(columns / VECTOR)
    vectors = _WORD * (row_words * pairs + column_words * columns + 4 + most)
    products = _TERMS * (1 + of_images.parts + of_texts.parts + 2)
    return LossCost(
        products,
        2 * products * pairs * columns * width,
        "half",
        split + once + sums + vectors + of_images.moved() + of_texts.moved() + of_images.of_scale(),
        split + blocks + sums + vectors + of_images.requested() + of_texts.requested() + of_images.of_scale(),
        9 + sum(1 + (side.shares > 1) for side in (of_images, of_texts)),
    )


def _loads(rows: int, columns: int, blocks: LossBlocks, bytes_of_row: int) -> int:
    """Both sides of all blocks."""
    return bytes_of_row * (rows * ceil(columns / blocks.columns) + columns * blocks.row_blocks(rows))


@dataclass(frozen=True, slots=True)
class _SecondPass:
    """Bytes of the second pass for one side's gradient."""

    rows: int
    columns: int
    width: int
    stride: int
    plan: LossPlan
    masked: bool

    @property
    def parts(self) -> int:
        return self.plan.second.parts(self.width)[0]

    @property
    def shares(self) -> int:
        return self.plan.second.shares(self.rows, self.columns, self.plan.processors, self.parts)

    def _gradients(self) -> int:
        """Written by each share, read again and added up."""
        written = self.shares * self.rows * self.width
        return _WORD * (written if self.shares == 1 else 2 * written + self.rows * self.width)

    def requested(self) -> int:
        """Of each load and store."""
        blocks = self.plan.second
        row_blocks = blocks.row_blocks(self.rows)
        # features, peak, hard and weight of each side, share of each column, captions
        words = self.stride + 3
        logits = _loads(self.rows, self.columns, blocks, _WORD * words + (8 if self.masked else 0))
        shares = _WORD * (self.columns * row_blocks + self.rows * self.shares)
        features = 2 * _TERMS * self.stride * self.columns * row_blocks
        scalars = _WORD * (2 + ceil(self.columns / VECTOR)) * row_blocks * self.shares * self.parts
        return self.parts * (logits + shares) + features + scalars + self._gradients()

    def moved(self) -> int:
        """Of each operand once."""
        words = (self.stride + 4) * (self.rows + self.columns) + 2 + ceil(self.columns / VECTOR)
        return _WORD * words + (8 if self.masked else 0) * (self.rows + self.columns) + self._gradients()

    def of_scale(self) -> int:
        """A number of each program, written and added up."""
        return _WORD * (2 * self.plan.second.row_blocks(self.rows) * self.shares + 1)
