"""Retrieval both ways: features of pictures and captions in, R@k with intervals, chance and ranks out. Pure.

Tie rule: where wrong items score exactly as high as the best right one, the result is the mean over all orders of the
tied items, so a hit can be fractional. A model that gives every item the same score gets exactly chance, and nothing
depends on the order of the gallery. Items with identical features (a caption that stands twice) are scored once, so
that rounding cannot break their tie.

Shapes: N pictures, M captions, Q queries, G gallery items, U distinct gallery items, D features, K cut-offs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluation.bootstrap import Interval, rate_interval

CUTOFFS: Final = (1, 5, 10)
_BLOCK_SCORES: Final = 1 << 24
"""Scores held at once (64 MiB of float32), whatever the size of the gallery."""


@dataclass(frozen=True)
class Direction:
    """One direction of retrieval."""

    recall: dict[int, float]
    """k -> R@k: share of queries with a right item among the first k."""
    interval: dict[int, Interval]
    """k -> 95 % bootstrap interval; pictures are drawn again, the gallery stays."""
    chance: dict[int, float]
    """k -> what a random order gives."""
    ranks_Q: NDArray[np.float64]
    """mean rank of each query's best right item, 1 is the top."""


@dataclass(frozen=True)
class Retrieval:
    """Both directions."""

    image_to_text: Direction
    text_to_image: Direction


def retrieval(
    image_features_ND: NDArray[np.floating],
    text_features_MD: NDArray[np.floating],
    image_of_text_M: NDArray[np.int64],
    rng: np.random.Generator,
) -> Retrieval:
    """R@1, R@5 and R@10 both ways; a picture may have several captions, any of which is right.

    Args:
        image_features_ND: features of the pictures, unit length.
        text_features_MD: features of the captions, unit length.
        image_of_text_M: index of each caption's picture.
        rng: draws of the bootstrap.
    """
    images_N = np.arange(len(image_features_ND))
    return Retrieval(
        image_to_text=direction(image_features_ND, images_N, text_features_MD, image_of_text_M, rng),
        text_to_image=direction(text_features_MD, image_of_text_M, image_features_ND, images_N, rng),
    )


def direction(
    query_features_QD: NDArray[np.floating],
    query_ids_Q: NDArray[np.int64],
    gallery_features_GD: NDArray[np.floating],
    gallery_ids_G: NDArray[np.int64],
    rng: np.random.Generator,
) -> Direction:
    """One direction: a gallery item is right for a query when their ids (the picture's index) agree.

    Raises:
        ValueError: a query has no right item in the gallery.
    """
    higher_Q, tied_Q, right_Q = standing(query_features_QD, query_ids_Q, gallery_features_GD, gallery_ids_G)
    groups_N, group_of_Q = np.unique(query_ids_Q, return_inverse=True)
    counts_N = np.bincount(group_of_Q, minlength=len(groups_N)).astype(np.float64)
    recall, bounds, chance = dict[int, float](), dict[int, Interval](), dict[int, float]()
    for cutoff in CUTOFFS:
        hits_Q = expected_hits(higher_Q, tied_Q, right_Q, cutoff)
        hits_N = np.bincount(group_of_Q, weights=hits_Q, minlength=len(groups_N)).astype(np.float64)
        recall[cutoff] = float(hits_Q.mean())
        bounds[cutoff] = rate_interval(hits_N, counts_N, rng)
        chance[cutoff] = chance_recall(query_ids_Q, gallery_ids_G, cutoff)
    return Direction(recall, bounds, chance, ranks_Q=1 + higher_Q + tied_Q / (right_Q + 1))


def expected_hits(
    higher_Q: NDArray[np.int64], tied_Q: NDArray[np.int64], right_Q: NDArray[np.int64], cutoff: int
) -> NDArray[np.float64]:
    """Share of the orders of tied items that put a right one among the first `cutoff`.

    Args:
        higher_Q: wrong items above the best right one.
        tied_Q: wrong items that score the same.
        right_Q: right items that score the same, at least 1.
        cutoff: k.
    """
    hits_Q = (higher_Q < cutoff).astype(np.float64)
    for query in np.flatnonzero((tied_Q > 0) & (higher_Q < cutoff)):
        hits_Q[query] = _drawn_share(int(right_Q[query]), int(tied_Q[query]), cutoff - int(higher_Q[query]))
    return hits_Q


def chance_recall(query_ids_Q: NDArray[np.int64], gallery_ids_G: NDArray[np.int64], cutoff: int) -> float:
    """R@k of a random order of the gallery."""
    ids, counts = np.unique(gallery_ids_G, return_counts=True)
    right_Q = counts[np.searchsorted(ids, query_ids_Q)]
    sizes, numbers = np.unique(right_Q, return_counts=True)
    gallery = len(gallery_ids_G)
    shares = [_drawn_share(int(size), gallery - int(size), cutoff) for size in sizes]
    return float(np.average(shares, weights=numbers))


def top_items(
    query_features_QD: NDArray[np.floating], gallery_features_GD: NDArray[np.floating], count: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The best `count` gallery items of each query and their scores, best first, ties by index. For a few queries."""
    scores_QG = query_features_QD @ gallery_features_GD.T
    order_QK = np.argsort(-scores_QG, axis=1, kind="stable")[:, :count]
    return order_QK, np.take_along_axis(scores_QG, order_QK, axis=1)


def _drawn_share(right: int, wrong: int, draws: int) -> float:
    """Chance that `draws` items out of right + wrong hold a right one."""
    if draws > wrong:
        return 1.0
    return 1 - comb(wrong, draws) / comb(wrong + right, draws)


def standing(
    query_features_QD: NDArray[np.floating],
    query_ids_Q: NDArray[np.int64],
    gallery_features_GD: NDArray[np.floating],
    gallery_ids_G: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each query: wrong items above its best right item, wrong items tied with it, right items tied with it."""
    missing = np.setdiff1d(query_ids_Q, gallery_ids_G)
    if missing.size:
        raise ValueError(f"query {missing[0]} has no right item in the gallery")
    distinct_UD, distinct_of_G = np.unique(gallery_features_GD, axis=0, return_inverse=True)
    step = max(16, _BLOCK_SCORES // len(gallery_ids_G))
    rows: list[NDArray[np.int64]] = []
    for start in range(0, len(query_ids_Q), step):
        scores_BG = (query_features_QD[start : start + step] @ distinct_UD.T)[:, distinct_of_G]
        right_BG = query_ids_Q[start : start + step, None] == gallery_ids_G[None, :]
        best_B1 = np.where(right_BG, scores_BG, -np.inf).max(axis=1, keepdims=True)
        tied_BG = scores_BG == best_B1
        rows.append(
            np.stack(
                [
                    (scores_BG > best_B1).sum(axis=1),
                    (tied_BG & ~right_BG).sum(axis=1),
                    (tied_BG & right_BG).sum(axis=1),
                ]
            )
        )
    higher_Q, tied_Q, right_Q = np.concatenate(rows, axis=1)
    return higher_Q, tied_Q, right_Q
