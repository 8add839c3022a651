"""Kernel regression from captions to the embeddings of their images: the strong text reference of a small pool.

In: captions as tokens, vectors of words, the embeddings of the captions' images. Out: where any caption lies. Pure. It
knows which words are near each other, and unlike a text tower it cannot forget: it is the teacher of
`train.distillation.regression`. Ours, not the paper's.

Captions are compared by exp(-RATE d), d^2 = NEARNESS |u - u'|^2 + |c - c'|^2: u is the mean of the words' vectors, each
weighed by how rare the word is among the captions, and c the words' counts, both of unit length (zero without a word).

Shapes: N captions that it knows, B others, V tokens, E numbers of a word's vector, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array, diags_array

from diht_k8s.stages.train.model.token_ridge import ClassCaptions, caption_counts, is_word

MAX_CAPTIONS: Final = 10_000
"""Captions of pairs that it is fitted on: its matrix takes 600 MB with them and the names of classes."""
RATE: Final = 0.5
NEARNESS: Final = 2.0
PENALTY: Final = 0.4
"""Of the regression, beside 1 for a caption's likeness to itself."""
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class ComparedCaptions:
    """Captions as the kernel sees them."""

    words_NE: Numbers
    counts_NV: csr_array
    lengths_N: Numbers
    """squared, of words and counts together."""


@dataclass(frozen=True)
class KernelRegression:
    """The regression."""

    vectors_VE: Numbers
    rarity_V: Numbers
    known: ComparedCaptions
    duals_ND: Numbers

    def embeddings(self, tokens_BT: NDArray[np.int64]) -> Numbers:
        """Embeddings of captions, BxD, not normalised."""
        return _kernel(_compared(tokens_BT, self.vectors_VE, self.rarity_V), self.known) @ self.duals_ND


def fit_kernel_regression(
    tokens_NT: NDArray[np.int64], embeddings_ND: NDArray[np.floating], vectors_VE: Numbers, *, pairs: int
) -> KernelRegression:
    """Solve it.

    Args:
        tokens_NT: of the captions.
        embeddings_ND: of their images.
        vectors_VE: of all tokens of the vocabulary; zeros where one has none.
        pairs: captions that count for how rare a word is, the first ones: behind them are names of classes.
    """
    counts_NV = caption_counts(tokens_NT[:pairs], np.arange(len(vectors_VE)), len(vectors_VE))
    counts_NV.sum_duplicates()
    seen_V = np.bincount(counts_NV.indices, minlength=len(vectors_VE))  # captions that hold it
    rarity_V = np.log((pairs + 1) / (seen_V + 1)).astype(np.float32)
    known = _compared(tokens_NT, vectors_VE, rarity_V)
    kernel_NN = _kernel(known, known)
    kernel_NN[np.diag_indices(len(kernel_NN))] += PENALTY
    factor = cho_factor(kernel_NN, overwrite_a=True, check_finite=False)
    duals_ND = cho_solve(factor, embeddings_ND.astype(np.float32), check_finite=False)
    return KernelRegression(vectors_VE, rarity_V, known, duals_ND)


def with_classes(
    tokens_NT: NDArray[np.int64],
    embeddings_ND: NDArray[np.floating],
    features_NF: NDArray[np.floating],
    projection_DF: NDArray[np.floating],
    classes: ClassCaptions | None,
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Captions and embeddings of pairs, followed by those of a classifier's classes, which are as long on average.

    Args:
        tokens_NT: of the captions.
        embeddings_ND: of their images.
        features_NF: of their images.
        projection_DF: features -> embedding.
        classes: of the classifier that reads these features; None without.
    """
    if classes is None:
        return tokens_NT, embeddings_ND
    covariance_FF = np.cov(features_NF, rowvar=False, bias=True)
    classes_JD = classes[1] @ covariance_FF @ projection_DF.T
    usual, length = (np.sqrt((rows**2).sum(axis=1).mean()) for rows in (embeddings_ND, classes_JD))
    embeddings_ND = np.concatenate([embeddings_ND, classes_JD * (usual / max(length, 1e-12))])
    return np.concatenate([tokens_NT, classes[0]]), embeddings_ND


def _compared(tokens_BT: NDArray[np.int64], vectors_VE: Numbers, rarity_V: Numbers) -> ComparedCaptions:
    words_BT, vocabulary = is_word(tokens_BT), len(vectors_VE)
    weights_BT = (rarity_V[tokens_BT] * words_BT)[..., None]
    words_BE = _unit((vectors_VE[tokens_BT] * weights_BT).sum(axis=1)) * np.float32(np.sqrt(NEARNESS))
    counts_BV = caption_counts(tokens_BT, np.arange(vocabulary), vocabulary)
    counts_BV = csr_array(diags_array(1 / np.maximum(_norms(counts_BV), 1e-12)) @ counts_BV, dtype=np.float32)
    return ComparedCaptions(words_BE, counts_BV, (words_BE**2).sum(axis=1) + _norms(counts_BV) ** 2)


def _kernel(some: ComparedCaptions, others: ComparedCaptions) -> Numbers:
    products = some.words_NE @ others.words_NE.T + (some.counts_NV @ others.counts_NV.T).toarray()
    squares = some.lengths_N[:, None] + others.lengths_N[None] - 2 * products
    return np.exp(-RATE * np.sqrt(np.maximum(squares, 0), dtype=np.float32), dtype=np.float32)


def _norms(rows_BV: csr_array) -> Numbers:
    return np.sqrt(np.asarray(rows_BV.multiply(rows_BV).sum(axis=1))).astype(np.float32)


def _unit(rows_BE: Numbers) -> Numbers:
    return rows_BE / np.maximum(np.linalg.norm(rows_BE, axis=1, keepdims=True), 1e-12)
