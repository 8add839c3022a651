"""References on the same split: ridge regression from features of an image to the words of its caption. Pure.

A model trained for minutes easily beats chance; the question is whether it beats a closed-form regression from 12 x 12
raw pixels, and how far it falls behind one on a strong frozen encoder.

scikit-learn's `Ridge` solves again for each penalty; here one decomposition serves all six, with sparse targets.

Shapes: N training pairs, M test images, T test captions, D features, V words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diht_k8s.stages.evaluate.retrieval import Retrieval, expected_hits, rank_counts, retrieval

PIXEL_SIDE: Final = 12
ALPHAS: Final = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
"""Ridge penalties for standardised features; a held-out part of the training pairs selects one."""
VALIDATION_PAIRS: Final = 500
MIN_PAIRS: Final = 50
"""A regression on fewer pairs is meaningless."""


@dataclass(frozen=True)
class RidgeReference:
    """A reference's retrieval figures."""

    retrieval: Retrieval
    pairs: int
    """training pairs."""
    words: int
    """size of the vocabulary."""
    alpha: float


def raw_pixels(image: Image.Image) -> NDArray[np.float32]:
    """The image as 12 x 12 RGB values in [0, 1], flat."""
    small = image.convert("RGB").resize((PIXEL_SIDE, PIXEL_SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / np.float32(255)


def has_words(caption: str) -> bool:
    """Whether a caption has a word of two signs or more, as the vectorizers take them."""
    return re.search(r"\b\w\w+\b", caption) is not None


@dataclass(frozen=True)
class ImageRidge:
    """A regression from features of an image to the TF-IDF words of its caption."""

    vectorizer: Any
    """captions -> [T, V] words, sparse."""
    solution: _Ridge
    alpha: float
    pairs: int

    def reference(
        self,
        features_MD: NDArray[np.floating],
        captions_T: Sequence[str],
        image_of_text_T: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> RidgeReference:
        """Retrieve among test pairs by the cosine of predicted and real words.

        Args:
            features_MD: features of the test images.
            captions_T: their captions.
            image_of_text_T: index of each caption's image.
            rng: draws of the bootstrap.
        """
        texts_TV: NDArray[np.float64] = self.vectorizer.transform(captions_T).toarray()
        predicted_MV = self.solution.predict(features_MD, self.alpha)
        figures = retrieval(unit(predicted_MV), unit(texts_TV), image_of_text_T, rng)
        return RidgeReference(figures, pairs=self.pairs, words=texts_TV.shape[1], alpha=self.alpha)


def ridge_to_words(
    features_ND: NDArray[np.floating], captions_N: Sequence[str], rng: np.random.Generator
) -> ImageRidge:
    """Fit on training pairs.

    Args:
        features_ND: features of the training images.
        captions_N: their captions.
        rng: draws the validation part.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float64)
    targets_NV: Any = vectorizer.fit_transform(captions_N)  # a scipy sparse matrix
    order = rng.permutation(len(captions_N))
    held_out, rest = np.split(order, [min(VALIDATION_PAIRS, len(order) // 5)])
    fitted = _Ridge(features_ND[rest], targets_NV[rest])
    held_out_V = targets_NV[held_out].toarray()
    scores = [_quality(fitted.predict(features_ND[held_out], alpha), held_out_V) for alpha in ALPHAS]
    alpha = ALPHAS[int(np.argmax(scores))]
    return ImageRidge(vectorizer, _Ridge(features_ND, targets_NV), alpha, len(captions_N))


class _Ridge:
    """Ridge regression without the mean of the targets, which is the same for every image."""

    def __init__(self, features_ND: NDArray[np.floating], targets_NV: Any) -> None:
        self._mean_D = features_ND.mean(axis=0, dtype=np.float64)
        self._scale_D = np.maximum(features_ND.std(axis=0, dtype=np.float64), 1e-6)
        scaled_ND = self._scaled(features_ND)
        values_D, self._axes_DD = np.linalg.eigh(scaled_ND.T @ scaled_ND)
        self._values_D = np.maximum(values_D, 0)
        self._products_DV = self._axes_DD.T @ (targets_NV.T @ scaled_ND).T

    def predict(self, features_MD: NDArray[np.floating], alpha: float) -> NDArray[np.float64]:
        """Predicted deviation from the mean caption."""
        return (self._scaled(features_MD) @ self._axes_DD / (self._values_D + alpha)) @ self._products_DV

    def _scaled(self, features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
        return (features_ND - self._mean_D) / self._scale_D


def _quality(predicted_MV: NDArray[np.float64], truth_MV: NDArray[np.float64]) -> float:
    """R@5 of both directions together."""
    ids_M = np.arange(len(truth_MV))
    predicted_MV, truth_MV = unit(predicted_MV), unit(truth_MV)
    both = (rank_counts(predicted_MV, ids_M, truth_MV, ids_M), rank_counts(truth_MV, ids_M, predicted_MV, ids_M))
    return sum(float(expected_hits(*counts, cutoff=5).mean()) for counts in both)


def unit(values_MV: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of unit length; zeros stay."""
    return values_MV / np.maximum(np.linalg.norm(values_MV, axis=1, keepdims=True), 1e-12)
