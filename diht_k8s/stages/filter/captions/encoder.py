"""spaCy's token encoder (`tok2vec`) in BLAS calls: features of words in, one vector per word in its context out.

spaCy spends more than half of its time here, and half of that on vectors of words that it has seen before. This encoder
computes the vector of each word once, and multiplies the windows of many captions in a few large products. The weights
are those of the model; results differ by rounding only (about 1e-6), which the tests check.

Legend: T rows of a batch (words, with empty rows between captions), N words, R rows that a layer computes, D width
(96), D1 width with an appended one, whose weights are the bias, P pieces of a maxout (3), W window (3 rows), U distinct
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from thinc.api import Model

GAP: Final = 4
"""Empty rows between captions: one per layer that uses neighbours, so captions do not affect each other."""
EPSILON: Final = 1e-8
ROWS: Final = 1024
"""Rows per pass through the layers; they fit the CPU's cache."""


@dataclass(frozen=True)
class _Layer:
    """Maxout and layer norm."""

    weights_IxPD: np.ndarray
    """I inputs: the features of a word, or a window of rows, each with an appended one."""
    bias_PD: np.ndarray
    gain_D: np.ndarray
    shift_D: np.ndarray

    def with_bias_in_window(self) -> _Layer:
        """The same layer for rows with an appended one; the bias becomes the weight of the middle one."""
        width = len(self.gain_D)
        weights_WxD1xPD = np.zeros((3, width + 1, 3 * width), "f")
        weights_WxD1xPD[:, :-1] = self.weights_IxPD.reshape(3, width, -1)
        weights_WxD1xPD[1, -1] = self.bias_PD
        return replace(self, weights_IxPD=weights_WxD1xPD.reshape(-1, 3 * width))

    def squeeze(self, y_TxPD: np.ndarray, best_TD: np.ndarray) -> None:
        """Apply maxout and layer norm to the products with the weights; writes `best_TD`."""
        width = best_TD.shape[1]
        np.maximum(y_TxPD[:, :width], y_TxPD[:, width : 2 * width], out=best_TD)
        np.maximum(best_TD, y_TxPD[:, 2 * width :], out=best_TD)
        best_TD -= best_TD @ np.full((width, 1), 1 / width, "f")
        variance_T = np.einsum("td,td->t", best_TD, best_TD) / width + EPSILON
        best_TD *= (1 / np.sqrt(variance_T))[:, None]
        best_TD *= self.gain_D
        best_TD += self.shift_D


class Encoder:
    """The layers of spaCy's `HashEmbedCNN` as matrix products."""

    def __init__(self, model: Model[Any, Any]) -> None:
        """Take the weights from the model of spaCy's `tok2vec` component."""
        embed, context = model.layers
        self._tables: list[Any] = [column.layers[1] for column in embed.layers[2].layers[0].layers]
        self._mixing = _layer(embed.layers[3].layers[0])
        windowed = [_layer(residual.layers[0].layers[1]) for residual in context.layers[0].layers]
        self._layers = [layer.with_bias_in_window() for layer in windowed]
        assert len(self._layers) == GAP, "the model has one layer per empty row between captions"
        self.width = int(model.get_dim("nO"))
        self._make_room(ROWS)
        empty_1xD1 = np.eye(1, self.width + 1, self.width, dtype="f")
        self._empty_1xD = self._apply(self._layers[0], empty_1xD1, np.zeros((1, 3), np.intp)).copy()
        """Output of the first layer for an empty row between empty rows."""

    def embed(self, features_NF: np.ndarray) -> np.ndarray:
        """Vectors of words without context, [N, D], from spaCy's attributes NORM, PREFIX, SUFFIX, SHAPE, SPACY,
        IS_SPACE.
        """
        y_NxPD = np.tile(self._mixing.bias_PD, (len(features_NF), 1))
        parts_FxDxPD = np.split(self._mixing.weights_IxPD, len(self._tables))
        for table, feature_N, part_DxPD in zip(self._tables, features_NF.T, parts_FxDxPD, strict=True):
            values_U, which_N = np.unique(feature_N, return_inverse=True)
            y_NxPD += (table.predict(values_U) @ part_DxPD)[which_N]
        best_ND = np.empty((len(features_NF), self.width), "f")
        self._mixing.squeeze(y_NxPD, best_ND)
        return best_ND

    def encode(self, vectors_ND: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Vectors of words in the context of their captions, [N, D].

        Args:
            vectors_ND: vectors of the words without context, caption after caption.
            lengths: number of words of each caption.
        """
        result_ND = np.empty_like(vectors_ND)
        first, rows, start = 0, GAP, 0
        for number, length in enumerate([*lengths, ROWS]):
            if rows + length + GAP > ROWS and number > first:
                stop = start + sum(lengths[first:number])
                self._encode_some(vectors_ND[start:stop], lengths[first:number], result_ND[start:stop])
                first, rows, start = number, GAP, stop
            rows += length + GAP
        return result_ND

    def _encode_some(self, vectors_ND: np.ndarray, lengths: Sequence[int], result_ND: np.ndarray) -> None:
        """Run each layer only over the rows whose values reach a word through the later layers.

        Empty rows matter: spaCy passes them through the layers too, so they affect the first and last words of a
        caption.
        """
        words_N = np.arange(len(vectors_ND)) + GAP * (1 + np.repeat(np.arange(len(lengths)), lengths))
        rows = len(vectors_ND) + GAP * (len(lengths) + 1)
        if rows > len(self._window_TxWxD1):
            self._make_room(rows)
        near_T = np.zeros(rows, bool)
        near_T[words_N - 1] = near_T[words_N] = near_T[words_N + 1] = True
        near_R, inner_R = np.flatnonzero(near_T), np.arange(2, rows - 2)
        x_TxD1 = np.zeros((rows, self.width + 1), "f")
        x_TxD1[:, -1] = 1
        x_TD = x_TxD1[:, :-1]
        x_TD[words_N] = vectors_ND
        for layer, rows_R in zip(self._layers, (near_R, inner_R, near_R, words_N), strict=True):
            y_RD = self._apply(layer, x_TxD1, rows_R[:, None] + np.arange(-1, 2))
            if layer is self._layers[0]:
                x_TD[~near_T] = self._empty_1xD
            x_TD[rows_R] += y_RD
        result_ND[:] = x_TD[words_N]

    def _apply(self, layer: _Layer, x_TxD1: np.ndarray, windows_RW: np.ndarray) -> np.ndarray:
        """Output of a layer for windows of rows, [R, D], in a buffer that the next call overwrites."""
        count = len(windows_RW)
        window_RxWxD1, y_RxPD, best_RD = self._window_TxWxD1[:count], self._y_TxPD[:count], self._best_TD[:count]
        np.take(x_TxD1, windows_RW, axis=0, out=window_RxWxD1, mode="clip")
        np.matmul(window_RxWxD1.reshape(-1, len(layer.weights_IxPD)), layer.weights_IxPD, out=y_RxPD)
        layer.squeeze(y_RxPD, best_RD)
        return best_RD

    def _make_room(self, rows: int) -> None:
        """Allocate buffers for a number of rows."""
        self._window_TxWxD1 = np.empty((rows, 3, self.width + 1), "f")
        self._y_TxPD, self._best_TD = np.empty((rows, 3 * self.width), "f"), np.empty((rows, self.width), "f")


def _layer(model: Any) -> _Layer:
    """The weights of a maxout with layer norm and (inactive) dropout."""
    maxout, norm = model.layers[0].layers
    weights_DPxI, bias_DP = maxout.get_param("W"), maxout.get_param("b")
    width, pieces, inputs = weights_DPxI.shape
    return _Layer(
        np.ascontiguousarray(weights_DPxI.transpose(1, 0, 2).reshape(pieces * width, inputs).T),
        bias_DP.T.reshape(pieces * width),
        norm.get_param("G"),
        norm.get_param("b"),
    )
