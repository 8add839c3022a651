"""Ridge regression from the words of captions to the features of their images, as CLIP's tokenizer cuts them.

In: words and features of pairs, as sums. Out: where a caption lies, and the projection of the features into the same
space. Pure. A training may start as it (`train.textStart`, see `text_start`), and an evaluation compares a model with
it (see `ridge_reference`). Ours, not the paper's.

A caption is the counts of its tokens over the root of their number, the target the features of its image, centred and
whitened with a shrunken covariance S, Y = (f - mean) (S + s I)^-1/2 with s the mean variance. Names of classes are
further captions where the image tower has a classifier: by linear discriminant analysis its weights w are S^-1 (class
mean - mean), so S w is what an image of the class differs by. Of the whitened features those D directions stay that the
regression predicts most of.

With vectors of words (`train.words`) the sum of a caption's vectors over the root of the words' number stands beside
the counts: what the regression makes of a vector counts for each word that has one, in captions or not.

Shapes: N captions, V tokens that occur, F features, D embedding, J classes, T tokens of a caption,
E numbers of a word's vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array, hstack

from diht_k8s.api.errors import UserError

MAX_TOKENS: Final = 6144
"""Tokens of the regression, the commonest ones: its matrix takes 300 MB. Another token starts as no word."""
PENALTY: Final = 0.64
"""Of the regression, in pairs: a token that captions hold less often than that is mostly left at zero."""
PENALTY_BESIDE_VECTORS: Final = 1.5
"""The same where words have vectors, which tell most of them."""
VECTORS_WEIGHT: Final = 2.0
"""Length of a word's vector beside its count."""
SHRINKAGE: Final = 1.0
"""Of the covariance that whitens, in mean variances."""
ROWS: Final = 8192
"""Pairs whose features are widened to fp64 at once."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class PairSums:
    """What the regression needs of pairs; the sums of two sets of pairs are those of both."""

    pairs: Matrix
    """their number, [1]."""
    features_F: Matrix
    squares_FF: Matrix
    counts_VV: Matrix
    """products of the captions' counts."""
    products_VF: Matrix
    """of counts and features."""
    words_V: Matrix
    """counts."""

    @property
    def parts(self) -> tuple[Matrix, ...]:
        """All of them, to be summed over processes in place."""
        return self.pairs, self.features_F, self.squares_FF, self.counts_VV, self.products_VF, self.words_V


ClassCaptions = tuple[NDArray[np.int64], Matrix]
"""The classes of the image tower's own classifier: tokens of their names JxT, and the classifier's weights JxF."""


@dataclass(frozen=True)
class TokenRidge:
    """The regression."""

    tokens_V: NDArray[np.int64]
    """numbers of its tokens in the vocabulary, those that only have a vector included."""
    vocabulary: int
    words_VD: Matrix
    projection_DF: Matrix
    """features -> image embedding."""
    bias_D: Matrix | None
    """None where the projection has none: then the projection itself takes away the mean."""
    pairs: int
    """that it is fitted on."""

    def texts(self, tokens_NT: NDArray[np.int64]) -> Matrix:
        """Embeddings of captions, NxD."""
        return caption_counts(tokens_NT, self.tokens_V, self.vocabulary) @ self.words_VD

    def images(self, features_NF: NDArray[np.floating]) -> Matrix:
        """Embeddings of images, NxD."""
        return features_NF @ self.projection_DF.T + (0 if self.bias_D is None else self.bias_D)


def require_fewer_dimensions(dimension: int, width: int) -> None:
    """Refuse an embedding of more dimensions than the features have, D of F.

    Raises:
        UserError: it has.
    """
    if dimension > width:
        raise UserError(
            f"train.textStart Ridge: embed_dim {dimension} is more than the {width} features of the image tower: "
            f"lower it"
        )


def fit_ridge(
    tokens_NT: NDArray[np.int64],
    features_NF: NDArray[np.floating],
    vocabulary: int,
    dimension: int,
    *,
    bias: bool,
    classes: ClassCaptions | None = None,
    vectors: NDArray[np.floating] | None = None,
    summed: Callable[[NDArray[Any]], NDArray[Any]] = lambda part: part,
    solves: bool = True,
) -> TokenRidge | None:
    """The regression on pairs.

    Args:
        tokens_NT: of the captions.
        features_NF: of the images.
        vocabulary: number of the tokenizer's tokens.
        dimension: D, at most F.
        bias: whether the projection of the features has one.
        classes: further captions, None without.
        vectors: of all tokens, VxE, zeros where one has none; None without.
        summed: an array's sum over the processes that have some of the pairs each (a collective).
        solves: whether this process solves it; the others get None.
    """
    frequencies = summed(word_frequencies(tokens_NT, vocabulary))
    if classes is not None:
        frequencies = frequencies + word_frequencies(classes[0], vocabulary)
    columns = CaptionColumns(commonest_tokens(frequencies), vocabulary, vectors)
    sums = pair_sums(columns.of(tokens_NT), features_NF)
    sums = PairSums(*map(summed, sums.parts))
    return solve_ridge(sums, columns, dimension, bias=bias, classes=classes) if solves else None


@dataclass(frozen=True)
class CaptionColumns:
    """What the regression reads of a caption: counts of its commonest tokens, then the sum of its words' vectors."""

    tokens_V: NDArray[np.int64]
    vocabulary: int
    vectors: NDArray[np.floating] | None = None

    def of(self, tokens_NT: NDArray[np.int64]) -> csr_array:
        """Of captions, Nx(V + E)."""
        counts_NV = caption_counts(tokens_NT, self.tokens_V, self.vocabulary)
        if self.vectors is None:
            return counts_NV
        all_N = caption_counts(tokens_NT, np.arange(len(self.vectors)), self.vocabulary)
        return csr_array(hstack([counts_NV, csr_array(all_N @ (VECTORS_WEIGHT * self.vectors))]))

    @property
    def penalty(self) -> float:
        """Of the regression on them."""
        return PENALTY if self.vectors is None else PENALTY_BESIDE_VECTORS

    def by_token(self, weights: Matrix) -> tuple[NDArray[np.int64], Matrix]:
        """Numbers of the tokens that say something, and what one of each adds to a caption: the columns' (V + E)xD
        weights in one row a token.
        """
        own_VD = weights[: len(self.tokens_V)]
        if self.vectors is None:
            return self.tokens_V, own_VD
        found_VD = (VECTORS_WEIGHT * self.vectors) @ weights[len(self.tokens_V) :]
        found_VD[self.tokens_V] += own_VD
        tokens_V = np.union1d(self.tokens_V, np.flatnonzero(self.vectors.any(axis=1)))
        return tokens_V, found_VD[tokens_V]


def word_frequencies(tokens_NT: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """How often each token of a vocabulary stands in captions, between their first and their end token."""
    return np.bincount(tokens_NT[is_word(tokens_NT)], minlength=vocabulary)


def commonest_tokens(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the tokens that occur, in order: the commonest ones where there are too many."""
    order = np.argsort(-frequencies, kind="stable")[:MAX_TOKENS]
    return np.sort(order[frequencies[order] > 0])


def caption_counts(tokens_NT: NDArray[np.int64], tokens_V: NDArray[np.int64], vocabulary: int) -> csr_array:
    """Counts of captions' words over the root of their number, NxV; words of no number in `tokens_V` are left out."""
    words_NT = is_word(tokens_NT)
    columns = np.full(vocabulary, -1)
    columns[tokens_V] = np.arange(len(tokens_V))
    rows, found = np.nonzero(words_NT)[0], columns[tokens_NT[words_NT]]
    each_N = 1 / np.sqrt(np.maximum(words_NT.sum(axis=1), 1))
    rows, found = rows[found >= 0], found[found >= 0]
    return csr_array((each_N[rows], (rows, found)), shape=(len(tokens_NT), len(tokens_V)))


def is_word(tokens_NT: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a caption's words stand; its end token is the highest number."""
    places_T = np.arange(tokens_NT.shape[1])
    return (places_T > 0) & (places_T < tokens_NT.argmax(axis=1)[:, None])


def pair_sums(counts_NV: csr_array, features_NF: NDArray[np.floating]) -> PairSums:
    """The sums of some pairs, in fp64."""
    (pairs, width), words_V = features_NF.shape, counts_NV.sum(axis=0)
    features_F, squares_FF, products_VF = np.zeros(width), np.zeros((width, width)), np.zeros((len(words_V), width))
    for first in range(0, pairs, ROWS):
        part_BF = features_NF[first : first + ROWS].astype(np.float64)
        features_F += part_BF.sum(axis=0)
        squares_FF += part_BF.T @ part_BF
        products_VF += counts_NV[first : first + ROWS].T @ part_BF
    counts_VV = (counts_NV.T @ counts_NV).toarray()
    return PairSums(np.array([float(pairs)]), features_F, squares_FF, counts_VV, products_VF, words_V)


def solve_ridge(
    sums: PairSums,
    columns: CaptionColumns,
    dimension: int,
    *,
    bias: bool,
    classes: ClassCaptions | None = None,
) -> TokenRidge:
    """Solve the regression for the sums of all pairs (see `fit_ridge`)."""
    pairs, width = float(sums.pairs[0]), len(sums.features_F)
    mean_F = sums.features_F / pairs
    covariance_FF = sums.squares_FF / pairs - np.outer(mean_F, mean_F)
    variance = max(float(np.trace(covariance_FF)) / width, 1e-12)
    values_F, axes_FF = np.linalg.eigh(covariance_FF)
    scales_F = 1 / np.sqrt(np.maximum(values_F, 0) + SHRINKAGE * variance)
    whitening_FF = axes_FF * scales_F
    matrix_VV = sums.counts_VV.copy()
    products_VF = (sums.products_VF - np.outer(sums.words_V, mean_F)) @ whitening_FF
    if classes is not None:
        counts_JV, weights_JF = columns.of(classes[0]), classes[1]
        targets_JF = weights_JF @ covariance_FF @ whitening_FF
        usual = np.sqrt(np.sum(np.maximum(values_F, 0) * scales_F**2))  # length of an image's whitened features
        targets_JF *= usual / max(np.sqrt((targets_JF**2).sum(axis=1).mean()), 1e-12)
        matrix_VV += (counts_JV.T @ counts_JV).toarray()
        products_VF += counts_JV.T @ targets_JF
    matrix_VV[np.diag_indices_from(matrix_VV)] += columns.penalty
    words_VF = cho_solve(cho_factor(matrix_VV, check_finite=False), products_VF, check_finite=False)
    axes_FD = _leading_axes(words_VF.T @ products_VF, dimension)  # what the regression explains, less its penalty
    projection_DF = (whitening_FF @ axes_FD).T
    bias_D = -projection_DF @ mean_F if bias else None
    if not bias:
        # One = f u for features f, as nearly as can be: projecting f - mean (f u) centres without a bias.
        one_F = np.linalg.solve(sums.squares_FF / pairs + 0.01 * variance * np.eye(width), mean_F)
        projection_DF = projection_DF - np.outer(projection_DF @ mean_F, one_F)
    tokens_V, words_VD = columns.by_token(words_VF @ axes_FD)
    return TokenRidge(tokens_V, columns.vocabulary, words_VD, projection_DF, bias_D, int(pairs))


def _leading_axes(matrix_FF: Matrix, number: int) -> Matrix:
    """The eigenvectors of the largest eigenvalues, FxD, each with its largest number positive."""
    axes_FD = np.linalg.eigh(matrix_FF)[1][:, ::-1][:, :number]
    largest_D = np.abs(axes_FD).argmax(axis=0)
    return axes_FD * np.sign(axes_FD[largest_D, np.arange(number)])
