"""Scores that tie where the features do: BLAS rounds equal rows by their place, which would then decide the tie. Pure.

Shapes: Q queries, G items, U distinct items, D features.
"""

from __future__ import annotations

import hashlib
from typing import Any

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
