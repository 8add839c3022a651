"""Scores of items for queries, and bootstrap intervals of rates. Pure.

Scores tie where the features do: BLAS rounds equal rows by their place, which would then decide the tie. Intervals are
95 % percentile intervals from values per group: groups are resampled, not single queries, since the captions of one
image are correlated. `scipy.stats.bootstrap` knows no groups with weights, and draws indexes where multinomial weights
make each draw a product of matrices.

Shapes: Q queries, G items or groups, U distinct items, D features, K kinds of hits, R resamples, B of a block.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


def query_scores(items_GD: NDArray[np.floating], query_D: NDArray[np.floating]) -> NDArray[np.floating]:
    """[G] of the items for one query."""
    return np.einsum("gd,d->g", items_GD, query_D)  # without BLAS: every row is summed in the same order


def similarity(queries_QD: NDArray[np.floating], items_GD: NDArray[np.floating]) -> NDArray[Any]:
    """[Q, G] of the items for each query; equal items are scored once."""
    distinct_UD, distinct_of_G = distinct_rows(items_GD)
    scores_QU = queries_QD @ distinct_UD.T
    return scores_QU if distinct_of_G is None else scores_QU[:, distinct_of_G]


def distinct_rows(features_GD: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.int64] | None]:
    """The distinct rows and the index of each row among them (None if all differ), found by digest without a copy."""
    place: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(features_GD))
    distinct_of_G = np.fromiter((place.setdefault(digest, len(place)) for digest in digests), np.int64)
    if len(place) == len(features_GD):
        return features_GD, None
    return features_GD[np.unique(distinct_of_G, return_index=True)[1]], distinct_of_G


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
