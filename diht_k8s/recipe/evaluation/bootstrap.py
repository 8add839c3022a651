"""Bootstrap intervals of rates: values per group in, a 95 % percentile interval out.

Groups are resampled, not single queries: the captions of one picture succeed and fail together.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_BLOCK_VALUES: Final = 1 << 22
"""Resampling weights are drawn in blocks of so many values, so that memory stays bounded."""


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def rate_interval(
    hits_G: NDArray[np.float64], counts_G: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Interval of sum(hits) / sum(counts) when the groups are drawn again.

    Args:
        hits_G: what each of G groups got right, possibly fractional.
        counts_G: what it could have got right.
        rng: source of the draws.
        resamples: number of draws.
    """
    groups = len(hits_G)
    values_G2 = np.stack([hits_G, counts_G], axis=1)
    block = max(1, _BLOCK_VALUES // groups)
    shares_G = np.full(groups, 1.0 / groups)
    sums: list[NDArray[np.float64]] = []
    for start in range(0, resamples, block):
        weights_BG = rng.multinomial(groups, shares_G, size=min(block, resamples - start))
        sums.append(weights_BG.astype(np.float64) @ values_G2)
    sums_R2 = np.concatenate(sums)
    return interval(sums_R2[:, 0] / sums_R2[:, 1])


def interval(values_R: NDArray[np.float64]) -> Interval:
    """The middle 95 % of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Interval(float(low), float(high))
