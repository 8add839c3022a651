"""Mean average precision of images with several classes, its interval, and the paired difference of two models. Pure.

The average precision of PASCAL VOC 2007 is that of its development kit (`VOCevalcls.m`; Everingham et al., IJCV 2010,
section 4.2): images by descending score, the mean over the recalls 0, 0.1 ... 1 of the highest precision at that recall
or a higher one. The other one takes all points, as scikit-learn's `average_precision_score` does. Images whose objects
of a class are all difficult count neither way. Where the kit takes equal scores in the order of the file, one threshold
stands here for all of them, as in scikit-learn: a model that gives every image the same score then has the share of the
images with the class. A recall is compared without rounding (the kit's 0.3 is 3 x 0.1, which 3 of 10 does not reach).

A figure is no sum over images, so each resample of the images is ranked again.

Shapes: N images, C classes, S and T seeds, B and R resamples, K images of a class that count, P thresholds, M figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.report.per_image import Difference, resampled_differences

NAMES: Final = ("11-point mAP", "all-point mAP")
"""Of the figures, M of them."""
LEVELS: Final = 10
"""Of recall, beside 0."""
IGNORED: Final = -1.0
"""Truth of an image that counts neither as one with the class nor as one without; 1 and 0 are those."""

_BLOCK: Final = 16
"""Resamples at a time: what is in work then stays in the cache."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Ranking:
    """The images of one class that count, best first."""

    order_K: NDArray[np.int64]
    starts_P: NDArray[np.int64]
    """place in `order_K` where the images begin that a threshold adds to those of the one before."""
    right_K: NDArray[np.bool_]


def average_precisions(scores_CN: Array, truth_CN: Array, drawn_BN: Array | None = None) -> Array:
    """[B, C, M] average precision of each class in each resample; NaN where no image has the class.

    Args:
        scores_CN: of each image for each class, higher is better.
        truth_CN: 1, 0 or `IGNORED`.
        drawn_BN: how often each resample has each image; None for one resample with each image once.
    """
    drawn_NB = np.ones((scores_CN.shape[1], 1)) if drawn_BN is None else np.ascontiguousarray(drawn_BN.T)
    rankings = [_ranked(*row) for row in zip(scores_CN, truth_CN, strict=True)]
    blocks = [drawn_NB[:, start : start + _BLOCK] for start in range(0, drawn_NB.shape[1], _BLOCK)]
    return np.concatenate([np.stack([_of_class(each, block) for each in rankings], axis=1) for block in blocks])


def mean_average_precisions(scores_CN: Array, truth_CN: Array, drawn_BN: Array | None = None) -> Array:
    """[B, M] mean over the classes that an image has; 0 in a resample without any."""
    found_BCM = average_precisions(scores_CN, truth_CN, drawn_BN)
    there_BCM = ~np.isnan(found_BCM)
    return np.where(there_BCM, found_BCM, 0.0).sum(axis=1) / np.maximum(there_BCM.sum(axis=1), 1)


def paired_precisions(
    first_SCN: Array, second_TCN: Array, truth_CN: Array, rng: np.random.Generator, *, same_seeds: bool = False
) -> list[Difference]:
    """The difference of each figure between two models on the same images; see `paired_differences`."""

    def figures_of(scores_SCN: Array, drawn_BN: Array) -> Array:
        each = [mean_average_precisions(scores_CN, truth_CN, drawn_BN) for scores_CN in scores_SCN]
        return np.stack(each, axis=2)

    return resampled_differences(
        lambda drawn_BN: figures_of(first_SCN, drawn_BN),
        lambda drawn_BN: figures_of(second_TCN, drawn_BN),
        (truth_CN.shape[1], len(first_SCN), len(second_TCN)),
        rng,
        same_seeds=same_seeds,
    )


def _ranked(scores_N: Array, truth_N: Array) -> _Ranking:
    """Thresholds that add no image of the class join the next one: their precision is below that of the one before."""
    counted = np.flatnonzero(truth_N != IGNORED)
    order_K = counted[np.argsort(-scores_N[counted], kind="stable")]
    right_K, sorted_K = truth_N[order_K] == 1, scores_N[order_K]
    ends = np.flatnonzero(np.append(sorted_K[1:] != sorted_K[:-1], True)[: len(order_K)])
    ends = ends[np.diff(np.cumsum(right_K)[ends], prepend=0) > 0]
    if not ends.size:
        return _Ranking(order_K[:0], ends, right_K[:0])
    shown = slice(ends[-1] + 1)  # nothing behind the last image of the class changes a figure
    return _Ranking(order_K[shown], np.concatenate([[0], ends[:-1] + 1]), right_K[shown])


def _of_class(ranking: _Ranking, drawn_NB: Array) -> Array:
    """[B, M]; see `average_precisions`."""
    if not ranking.starts_P.size:
        return np.full((drawn_NB.shape[1], len(NAMES)), np.nan)
    drawn_KB = drawn_NB[ranking.order_K]
    counted_BP = np.cumsum(np.add.reduceat(drawn_KB, ranking.starts_P).T, axis=1)
    drawn_KB *= ranking.right_K[:, None]
    found_BP = np.cumsum(np.add.reduceat(drawn_KB, ranking.starts_P).T, axis=1)
    total_B1 = found_BP[:, -1:]
    precision_BP = found_BP / np.maximum(counted_BP, 1)
    all_B = (np.diff(found_BP, axis=1, prepend=0.0) * precision_BP).sum(axis=1) / np.maximum(total_B1[:, 0], 1)
    highest_BP = np.maximum.accumulate(precision_BP[:, ::-1], axis=1)[:, ::-1]
    row_B1 = np.arange(len(found_BP))[:, None] * (1 + found_BP.max())  # makes one ascending list of all rows
    wanted_BL = np.ceil(np.arange(LEVELS + 1) * total_B1 / LEVELS)
    first_BL = np.searchsorted((found_BP + row_B1).reshape(-1), (wanted_BL + row_B1).reshape(-1))
    eleven_B = highest_BP.reshape(-1)[first_BL].reshape(-1, LEVELS + 1).mean(axis=1)
    return np.where(total_B1 > 0, np.stack([eleven_B, all_B], axis=1), np.nan)
