"""What HN-NCE costs a card in a step: products, bytes and kernels, for the tiles in plain torch and for the fused kernels.

Closed formulas of P pairs of a rank, N pairs of all ranks and the width D. `tests/unit/recipe/train/test_loss_cost.py` compares
them with counted operators, loads and stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from diht_k8s.recipe.train.loss.blocks import FIRST_PASS, SECOND_PASS, Blocks
from diht_k8s.recipe.train.loss.hn_nce import CHUNK_SIZE

# Shape legend: P pairs of this rank, N pairs of all ranks, D feature width.

_SPLIT_PRODUCTS: Final = 3
"""16-bit products for one of fp32: high x high, high x low, low x high."""


@dataclass(frozen=True, slots=True)
class LossCost:
    """Forward and backward of one rank."""

    products: int
    """P x N x D products that the card computes, those of recomputed logits included; each is 2 P N D operations."""
    operations: int
    """of all products; a multiplication and an addition are two."""
    rate: Literal["half", "fp32"]
    """the card's peak that bounds them: 16-bit tensor cores, or fp32 without TF32."""
    moved: int
    """bytes between the card's memory and its kernels, where a kernel reads and writes each operand once (the L2 cache serves
    the blocks that read it again)."""
    requested: int
    """bytes that kernels load and store, L2 hits included; the operands of torch's own products count once."""
    launches: int
    """kernels, collectives not counted."""

    def seconds(self, *, half_tflops: float, fp32_tflops: float, bandwidth: float, l2_bandwidth: float) -> float:
        """A lower bound by the roofline: the slowest of products, memory and cache; launches overlap.

        Args:
            half_tflops: dense peak of 16-bit products.
            fp32_tflops: peak of fp32 products.
            bandwidth: of the card's memory, bytes a second.
            l2_bandwidth: of its L2 cache, bytes a second.
        """
        peak = 1e12 * (half_tflops if self.rate == "half" else fp32_tflops)
        return max(self.operations / peak, self.moved / bandwidth, self.requested / l2_bandwidth)


def tiled_cost(pairs: int, columns: int, width: int, *, chunk_size: int = CHUNK_SIZE) -> LossCost:
    """The tiles in plain torch (`hn_nce`), beta > 0, gradients through the weights, no captions masked, fp32.

    Args:
        pairs: P, of this rank.
        columns: N, of all ranks.
        width: D.
        chunk_size: rows of a tile.
    """
    tiles, logits, texts = ceil(pairs / chunk_size), pairs * columns, columns * width
    # Per logit, reads and writes: 23 in the first pass, 28 in the second; per tile the texts are read 4 times and written once.
    moved = 4 * (51 * logits + 5 * tiles * texts)
    return LossCost(4, 8 * logits * width, "fp32", moved, moved, 111 + 68 * tiles)


def fused_cost(
    pairs: int,
    columns: int,
    width: int,
    *,
    processors: int = 132,
    first: Blocks = FIRST_PASS,
    second: Blocks = SECOND_PASS,
) -> LossCost:
    """The fused kernels (`hn_nce_triton`), beta > 0, no captions masked, fp32 features.

    Args:
        pairs: P, of this rank.
        columns: N, of all ranks.
        width: D.
        processors: streaming multiprocessors of the card.
        first: blocks of the first pass.
        second: blocks of the second pass.
    """
    halves = 4 * width  # bytes of a row, high and low part of each feature
    features = halves * (pairs + columns)
    row_blocks = ceil(pairs / first.rows)
    parts = second.parts(width)
    split = 2 * features
    sums = 12 * row_blocks * columns
    shares = second.shares(pairs, columns, processors, parts)
    image_parts = 4 * pairs * width * (shares if shares == 1 else 2 * shares + 1)
    written = 2 * sums + image_parts + 4 * columns * width
    loaded = (
        _loaded(pairs, columns, halves, first)
        + parts * (_loaded(pairs, columns, halves, second) + _loaded(columns, pairs, halves, second))
        + halves * (ceil(pairs / second.rows) * columns + ceil(columns / second.rows) * pairs)
    )
    products = _SPLIT_PRODUCTS * (1 + 2 * parts + 2)
    return LossCost(
        products,
        2 * products * pairs * columns * width,
        "half",
        split + 3 * features + written,
        split + loaded + written,
        12,
    )


def _loaded(rows: int, columns: int, halves: int, blocks: Blocks) -> int:
    """Bytes of both sides for the logits of all blocks."""
    return halves * (rows * ceil(columns / blocks.columns) + columns * ceil(rows / blocks.rows))
