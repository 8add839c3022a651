"""Scores of benchmarks whose questions are groups of images and captions. Pure.

Winoground (arXiv 2204.03162): a group has two images and a caption for each. SugarCrepe (arXiv 2306.14610): an image
has a right caption and wrong ones. WinoGAViL (arXiv 2207.12576): a cue is associated with some of its candidate
images. Equal scores are never a success: a model that cannot tell the captions apart has not answered.

Shapes: P pairs, N captions of one image, A candidates of one cue, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluate.bootstrap import Interval, rate_interval

PAIR_CHANCE = {"text score": 1 / 4, "image score": 1 / 4, "group score": 1 / 6}
"""Winoground's scores of random similarities: each of two captions wins with 1/2; of the 24 orders of four scores, four
put both right ones above both wrong ones."""


@dataclass(frozen=True)
class Score:
    """One figure over all groups."""

    name: str
    value: float
    interval: Interval
    """95 %, over groups."""
    chance: float
    hits_G: NDArray[np.float64]
    weights_G: NDArray[np.float64]
    """1 where the group counts, 0 where it does not; or the number of its questions."""


def pair_hits(similarity_P22: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Winoground's text, image and group score of each pair.

    Args:
        similarity_P22: of caption i and image j of each pair at [i, j]; caption i belongs to image i.

    Returns:
        Name of the score -> 1.0 or 0.0 for each pair. Text: each image is closer to its own caption than to the other
        one. Image: each caption is closer to its own image. Group: both.
    """
    right_P2 = np.stack([similarity_P22[:, 0, 0], similarity_P22[:, 1, 1]], axis=1)
    other_caption_P2 = np.stack([similarity_P22[:, 1, 0], similarity_P22[:, 0, 1]], axis=1)
    other_image_P2 = other_caption_P2[:, ::-1]
    text_P = (right_P2 > other_caption_P2).all(axis=1)
    image_P = (right_P2 > other_image_P2).all(axis=1)
    hits = {"text score": text_P, "image score": image_P, "group score": text_P & image_P}
    return {name: np.asarray(hits_P, dtype=np.float64) for name, hits_P in hits.items()}


def choice_hit(scores_N: NDArray[np.floating]) -> float:
    """1.0 if the first caption, the right one, is above all others; else 0.0."""
    return float(scores_N[0] > scores_N[1:].max())


def jaccard(scores_A: NDArray[np.floating], associated_A: NDArray[np.bool_]) -> float:
    """Jaccard index of the associated candidates and as many of the best-scoring ones; of equal scores the first wins.

    Raises:
        ValueError: no candidate is associated.
    """
    wanted = int(associated_A.sum())
    if not wanted:
        raise ValueError("no candidate is associated with the cue")
    chosen = np.argsort(-scores_A, kind="stable")[:wanted]
    shared = int(associated_A[chosen].sum())
    return shared / (2 * wanted - shared)


def chance_jaccard(candidates: int, associated: int) -> float:
    """Mean Jaccard index over all choices of as many candidates as are associated."""
    return sum(
        comb(associated, shared)
        * comb(candidates - associated, associated - shared)
        / comb(candidates, associated)
        * shared
        / (2 * associated - shared)
        for shared in range(associated + 1)
    )


def score(
    name: str,
    hits_G: Sequence[float] | NDArray[np.float64],
    weights_G: Sequence[float] | NDArray[np.float64],
    chance: float,
    rng: np.random.Generator,
) -> Score:
    """A figure sum(hits) / sum(weights), with its interval over resamples of the groups that count."""
    hits, weights = np.asarray(hits_G, dtype=np.float64), np.asarray(weights_G, dtype=np.float64)
    counted = weights > 0
    bounds = rate_interval(hits[counted], weights[counted], rng)
    return Score(name, float(hits.sum() / weights.sum()), bounds, chance, hits, weights)
