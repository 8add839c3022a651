"""References on the text's side: ridge regression from a caption to the features of its image by a strong encoder. Pure.

The plain one goes from words; the strong one from CLIP's BPE tokens to whitened features, in which no few directions
outweigh the others. A text tower trained on the same features should be above them.

Shapes: N training pairs, M test images, T test captions, D features, V words or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluate.retrieval import expected_hits, rank_counts, retrieval
from diht_k8s.recipe.evaluate.ridge import VALIDATION_PAIRS, RidgeReference

PENALTIES: Final = (0.3, 1.0, 3.0, 10.0)
"""For texts of unit length; a held-out part of the training pairs selects one."""
MOST_TERMS: Final = 8192
"""The commonest words or tokens that count: the system to solve is this large at most (256 MiB)."""
LEAST_VARIANCE: Final = 0.03
"""Share of the mean variance that whitening adds to each direction, so that it blows up no noise (our choice)."""

Array = NDArray[np.float64]


def ridge_from_words(
    features_ND: NDArray[np.floating],
    captions_N: Sequence[str],
    test_features_MD: NDArray[np.floating],
    test_captions_T: Sequence[str],
    image_of_text_T: NDArray[np.int64],
    rng: np.random.Generator,
) -> RidgeReference:
    """Fit TF-IDF words to the features less their mean; retrieve by the cosine of predicted and real features.

    Args:
        features_ND: features of the training images.
        captions_N: their captions.
        test_features_MD: features of the test images.
        test_captions_T: captions of the test images.
        image_of_text_T: index of each test caption's image.
        rng: draws of the validation part and of the bootstrap.
    """
    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    train_ND, test_MD = features_ND - centre_D, test_features_MD - centre_D
    return _fitted("word", train_ND, captions_N, test_MD, test_captions_T, image_of_text_T, rng)


def ridge_from_tokens(
    features_ND: NDArray[np.floating],
    captions_N: Sequence[str],
    test_features_MD: NDArray[np.floating],
    test_captions_T: Sequence[str],
    image_of_text_T: NDArray[np.int64],
    rng: np.random.Generator,
) -> RidgeReference:
    """The same from BPE tokens to whitened features."""
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    train_ND = features_ND - centre_D
    values_D, axes_DD = np.linalg.eigh(train_ND.T @ train_ND / len(train_ND))
    whitening_DD = axes_DD / np.sqrt(np.maximum(values_D, 0) + LEAST_VARIANCE * values_D.mean() + 1e-12)
    test_MD = (test_features_MD - centre_D) @ whitening_DD
    return _fitted(
        lambda caption: [str(token) for token in encode(caption)],
        train_ND @ whitening_DD,
        captions_N,
        test_MD,
        test_captions_T,
        image_of_text_T,
        rng,
    )


def _fitted(
    analyzer: Any,
    features_ND: Array,
    captions_N: Sequence[str],
    test_features_MD: Array,
    test_captions_T: Sequence[str],
    image_of_text_T: NDArray[np.int64],
    rng: np.random.Generator,
) -> RidgeReference:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer: Any = TfidfVectorizer(sublinear_tf=True, dtype=np.float64, max_features=MOST_TERMS, analyzer=analyzer)
    texts_NV: Any = vectorizer.fit_transform(captions_N)  # a scipy sparse matrix
    order = rng.permutation(len(captions_N))
    held_out, rest = np.split(order, [min(VALIDATION_PAIRS, len(order) // 5)])
    scores = [
        _quality(texts_NV[held_out] @ _solved(texts_NV[rest], features_ND[rest], penalty), features_ND[held_out])
        for penalty in PENALTIES
    ]
    penalty = PENALTIES[int(np.argmax(scores))]
    predicted_TD = vectorizer.transform(test_captions_T) @ _solved(texts_NV, features_ND, penalty)
    figures = retrieval(_unit(test_features_MD), _unit(predicted_TD), image_of_text_T, rng)
    return RidgeReference(figures, pairs=len(captions_N), words=texts_NV.shape[1], alpha=penalty)


def _solved(texts_NV: Any, features_ND: Array, penalty: float) -> Array:
    """[V, D] weights by the normal equations, which are positive definite."""
    from scipy.linalg import solve

    gram_VV = (texts_NV.T @ texts_NV).toarray()
    gram_VV.flat[:: len(gram_VV) + 1] += penalty
    return solve(gram_VV, texts_NV.T @ features_ND, assume_a="pos", overwrite_a=True, overwrite_b=True)


def _quality(predicted_MD: Array, features_MD: Array) -> float:
    """R@5 of both directions together."""
    ids_M, texts_MD, images_MD = np.arange(len(features_MD)), _unit(predicted_MD), _unit(features_MD)
    both = (rank_counts(texts_MD, ids_M, images_MD, ids_M), rank_counts(images_MD, ids_M, texts_MD, ids_M))
    return sum(float(expected_hits(*counts, cutoff=5).mean()) for counts in both)


def _unit(values_MD: Array) -> Array:
    return values_MD / np.maximum(np.linalg.norm(values_MD, axis=1, keepdims=True), 1e-12)
