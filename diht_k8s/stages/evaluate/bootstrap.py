"""Bootstrap intervals of rates: 95 % percentile intervals from values per group.

Groups are resampled, not single queries, since the captions of one image are correlated. `scipy.stats.bootstrap` knows
no groups with weights, and draws indexes where multinomial weights make each draw a product of matrices.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_BLOCK_VALUES: Final = 1 << 22
"""Values in a block of resampling weights, which bounds memory."""


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def rate_interval(
    hits_G: NDArray[np.float64], counts_G: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Interval of sum(hits) / sum(counts) over resampled groups.

    Args:
        hits_G: hits of each of G groups, possibly fractional.
        counts_G: the most hits that each group can have.
        rng: source of the draws.
        resamples: number of draws.
    """
    return rate_intervals(hits_G[None], counts_G, rng, resamples)[0]


def rate_intervals(
    hits_KG: NDArray[np.float64], counts_G: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> list[Interval]:
    """The same for K kinds of hits with the same draws."""
    groups = len(counts_G)
    values_GV = np.column_stack([counts_G, *hits_KG])
    block = max(1, _BLOCK_VALUES // groups)
    shares_G = np.full(groups, 1.0 / groups)
    sums: list[NDArray[np.float64]] = []
    for start in range(0, resamples, block):
        weights_BG = rng.multinomial(groups, shares_G, size=min(block, resamples - start))
        sums.append(weights_BG.astype(np.float64) @ values_GV)
    sums_RV = np.concatenate(sums)
    return [interval(sums_RV[:, column] / sums_RV[:, 0]) for column in range(1, values_GV.shape[1])]


def interval(values_R: NDArray[np.float64]) -> Interval:
    """The middle 95 % of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Interval(float(low), float(high))
