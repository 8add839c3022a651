"""spaCy's token encoder (`tok2vec`) by BLAS: features of words in, one vector for each word in its context out.

spaCy spends more than half of its time here, half of that on vectors of words that it has seen before. Here each word's own
vector is made once, and the windows of many captions go through a few large products. The weights are the model's own; results
differ by rounding only (some 1e-6), which the tests compare.

Legend: T words of a batch with the rows between captions, N words, D width (96), P pieces of a maxout (3), W window (3 words).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from thinc.api import Model

GAP: Final = 4
"""Empty rows between captions: as many as there are layers that look at neighbours, so that no caption sees the next one."""
EPSILON: Final = 1e-8
ROWS: Final = 1024
"""Rows that go through the layers at once: they fit the processor's cache."""


@dataclass(frozen=True)
class _Layer:
    """Maxout and layer norm over a window of three words (in the first layer, over a word's features)."""

    weights_WDxPD: np.ndarray
    bias_PD: np.ndarray
    gain_D: np.ndarray
    shift_D: np.ndarray

    def apply(self, inputs_TxWD: np.ndarray, y_TxPD: np.ndarray, best_TD: np.ndarray) -> None:
        """Compute into `best_TD`; `y_TxPD` is room for what comes between."""
        width = best_TD.shape[1]
        np.matmul(inputs_TxWD, self.weights_WDxPD, out=y_TxPD)
        y_TxPD += self.bias_PD
        np.maximum(y_TxPD[:, :width], y_TxPD[:, width : 2 * width], out=best_TD)
        np.maximum(best_TD, y_TxPD[:, 2 * width :], out=best_TD)
        best_TD -= best_TD.mean(axis=1, keepdims=True)
        variance_T = np.einsum("td,td->t", best_TD, best_TD) / width + EPSILON
        best_TD *= (1 / np.sqrt(variance_T))[:, None]
        best_TD *= self.gain_D
        best_TD += self.shift_D


class Encoder:
    """The layers of spaCy's `HashEmbedCNN` as matrix products."""

    def __init__(self, model: Model[Any, Any]) -> None:
        """Take the weights from the model of spaCy's `tok2vec` component."""
        embed, context = model.layers
        self._features, self._mixing = embed.layers[2].layers[0], _layer(embed.layers[3].layers[0])
        self._layers = [_layer(residual.layers[0].layers[1]) for residual in context.layers[0].layers]
        assert len(self._layers) == GAP, "the model has as many layers as there are empty rows between captions"
        self.width = int(model.get_dim("nO"))
        width, pieces = self.width, self._layers[0].weights_WDxPD.shape[1]
        self._x_TD, self._window_TxWD = np.zeros((ROWS, width), "f"), np.zeros((ROWS, 3 * width), "f")
        self._y_TxPD, self._best_TD = np.empty((ROWS, pieces), "f"), np.empty((ROWS, width), "f")

    def embed(self, features_NF: np.ndarray) -> np.ndarray:
        """Vectors of words on their own, [N, D], from spaCy's attributes NORM, PREFIX, SUFFIX, SHAPE, SPACY, IS_SPACE."""
        inputs = self._features.predict(features_NF)
        y_NxPD, best_ND = np.empty((len(inputs), self._y_TxPD.shape[1]), "f"), np.empty((len(inputs), self.width), "f")
        self._mixing.apply(inputs, y_NxPD, best_ND)
        return best_ND

    def encode(self, vectors_ND: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Vectors of words in their captions, [N, D].

        Args:
            vectors_ND: vectors of the words on their own, caption after caption.
            lengths: words of each caption.
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
        places_N = np.arange(len(vectors_ND)) + GAP * (1 + np.repeat(np.arange(len(lengths)), lengths))
        rows = len(vectors_ND) + GAP * (len(lengths) + 1)
        if rows > len(self._x_TD):
            self._grow(rows)
        x_TD = self._x_TD[:rows]
        x_TD[:] = 0
        x_TD[places_N] = vectors_ND
        for layer in self._layers:
            self._add_layer(x_TD, layer)
        result_ND[:] = x_TD[places_N]

    def _add_layer(self, x_TD: np.ndarray, layer: _Layer) -> None:
        rows, width = x_TD.shape
        window_TxWD, y_TxPD, best_TD = self._window_TxWD[:rows], self._y_TxPD[:rows], self._best_TD[:rows]
        window_TxWD[1:, :width], window_TxWD[0, :width] = x_TD[:-1], 0
        window_TxWD[:, width : 2 * width] = x_TD
        window_TxWD[:-1, 2 * width :], window_TxWD[-1, 2 * width :] = x_TD[1:], 0
        layer.apply(window_TxWD, y_TxPD, best_TD)
        x_TD += best_TD

    def _grow(self, rows: int) -> None:
        """Make room for a caption of very many words."""
        self._x_TD, self._window_TxWD, self._y_TxPD, self._best_TD = (
            np.zeros((rows, buffer.shape[1]), "f")
            for buffer in (self._x_TD, self._window_TxWD, self._y_TxPD, self._best_TD)
        )


def _layer(model: Any) -> _Layer:
    """The weights of a maxout with layer norm and (idle) dropout."""
    maxout, norm = model.layers[0].layers
    weights_DPxWD, bias_DP = maxout.get_param("W"), maxout.get_param("b")
    width, pieces, inputs = weights_DPxWD.shape
    return _Layer(
        np.ascontiguousarray(weights_DPxWD.transpose(1, 0, 2).reshape(pieces * width, inputs).T),
        bias_DP.T.reshape(pieces * width).copy(),
        norm.get_param("G"),
        norm.get_param("b"),
    )
