"""References on the text's side: ridge regression from a caption to the features of its image by a strong encoder. Pure.

The plain one goes from words; the strong one from CLIP's BPE tokens to whitened features, in which no few directions
outweigh the others. A text tower trained on the same features should be above them.

Shapes: N training pairs, M test images, T test captions, D features, V words or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluate.retrieval import retrieval
from diht_k8s.recipe.evaluate.ridge import RidgeReference, unit

PENALTY: Final = 2.0
"""For texts of unit length (our choice)."""
MOST_TERMS: Final = 8192
"""The commonest words or tokens that count: the system to solve is this large at most (256 MiB)."""
LEAST_VARIANCE: Final = 0.03
"""Share of the mean variance that whitening adds to each direction, so that it blows up no noise (our choice)."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TextRidge:
    """A regression from a caption to the features of its image."""

    vectorizer: Any
    """captions -> [T, V] terms, sparse."""
    weights_VD: Array
    centre_D: Array
    whitening_DD: Array | None
    pairs: int

    def reference(
        self,
        features_MD: NDArray[np.floating],
        captions_T: Sequence[str],
        image_of_text_T: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> RidgeReference:
        """Retrieve among test pairs by the cosine of predicted and real features.

        Args:
            features_MD: features of the test images.
            captions_T: their captions.
            image_of_text_T: index of each caption's image.
            rng: draws of the bootstrap.
        """
        images_MD = features_MD - self.centre_D
        if self.whitening_DD is not None:
            images_MD = images_MD @ self.whitening_DD
        predicted_TD = self.vectorizer.transform(captions_T) @ self.weights_VD
        figures = retrieval(unit(images_MD), unit(predicted_TD), image_of_text_T, rng)
        return RidgeReference(figures, pairs=self.pairs, words=len(self.weights_VD), alpha=PENALTY)


def ridge_from_words(features_ND: NDArray[np.floating], captions_N: Sequence[str]) -> TextRidge:
    """TF-IDF words to the features less their mean.

    Args:
        features_ND: features of the training images.
        captions_N: their captions.
    """
    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    return _fitted("word", features_ND - centre_D, captions_N, centre_D, None)


def ridge_from_tokens(features_ND: NDArray[np.floating], captions_N: Sequence[str]) -> TextRidge:
    """The same from BPE tokens to whitened features."""
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    centred_ND = features_ND - centre_D
    values_D, axes_DD = np.linalg.eigh(centred_ND.T @ centred_ND / len(centred_ND))
    whitening_DD = axes_DD / np.sqrt(np.maximum(values_D, 0) + LEAST_VARIANCE * values_D.mean() + 1e-12)

    def tokens(caption: str) -> list[str]:
        return [str(token) for token in encode(caption)]

    return _fitted(tokens, centred_ND @ whitening_DD, captions_N, centre_D, whitening_DD)


def _fitted(
    analyzer: Any, targets_ND: Array, captions_N: Sequence[str], centre_D: Array, whitening_DD: Array | None
) -> TextRidge:
    """The normal equations, which are positive definite."""
    from scipy.linalg import solve
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer: Any = TfidfVectorizer(sublinear_tf=True, dtype=np.float64, max_features=MOST_TERMS, analyzer=analyzer)
    texts_NV: Any = vectorizer.fit_transform(captions_N)  # a scipy sparse matrix
    gram_VV = (texts_NV.T @ texts_NV).toarray()
    gram_VV.flat[:: len(gram_VV) + 1] += PENALTY
    products_VD = texts_NV.T @ targets_ND
    weights_VD = solve(gram_VV, products_VD, assume_a="pos", overwrite_a=True, overwrite_b=True)
    return TextRidge(vectorizer, weights_VD, centre_D, whitening_DD, len(captions_N))
