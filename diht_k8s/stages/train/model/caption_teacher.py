"""Feature distillation from a regression: texts made up of captions and words follow what the regression says of them.

In: the kernel regression of the first pairs, and their captions. Out: for each step as many texts as the batch has
pairs, and the embeddings that they should have. A text joins random halves of two captions, or is one to three words
drawn from the table, so that the student learns words that no caption holds. A caption itself is no such text: of it
the regression has seen the image, and a student that follows it there memorises. With s the cosine of a text's
embedding to its target the loss is the mean of 1 - s. Ours, not the paper's.

The draws depend on the step and on the row in the global batch alone: they are the same on any number of processes.

Shapes: N captions, B rows of this rank, T tokens, V tokens of the vocabulary, E numbers of a word's vector, W words to
draw from, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.sampler import generator
from diht_k8s.stages.train.model.kernel_regression import KernelRegression
from diht_k8s.stages.train.model.token_ridge import is_word

JOINED: Final = 0.7
"""Share of the texts that join captions; the others are words."""
KEPT: Final = 0.5
"""Share of a caption's words that a text takes."""
MOST_WORDS: Final = 3
"""Of a text of words; it has one to that many, each number as often."""


@dataclass(frozen=True)
class Lesson:
    """The texts of a step and what they should be, unit vectors."""

    tokens_BT: Tensor
    targets_BD: Tensor


class CaptionTeacher:
    """The regression as the teacher of one rank's texts."""

    def __init__(
        self, regression: KernelRegression, captions_NT: NDArray[np.int64], seed: int, share: BatchShare
    ) -> None:
        """Draw from captions, and from the words that have a vector.

        Args:
            regression: of captions to embeddings of images.
            captions_NT: their tokens.
            seed: of the training's random draws.
            share: this rank's rows of a batch.
        """
        self._regression, self._seed, self._share = regression, seed, share
        self._captions = [row[words] for row, words in zip(captions_NT, is_word(captions_NT), strict=True)]
        self._words_W = np.flatnonzero(regression.vectors_VE.any(axis=1))
        self._length = captions_NT.shape[1]

    def lesson(self, step: int, device: torch.device) -> Lesson:
        """Texts and targets of a step."""
        share = self._share
        rows = np.minimum(np.arange(share.first, share.first + share.rows), share.batch_size - 1)
        tokens_BT = self._texts(step)[rows]
        targets_BD = torch.nn.functional.normalize(torch.from_numpy(self._regression.embeddings(tokens_BT)))
        return Lesson(torch.from_numpy(tokens_BT).to(device), targets_BD.to(device))

    def loss(self, texts_BD: Tensor, lesson: Lesson) -> Tensor:
        """Of unit embeddings; averaged over the ranks it is that of the global batch."""
        pairs = slice(0, self._share.pairs)  # behind them are surplus rows
        close = (texts_BD[pairs] * lesson.targets_BD[pairs]).sum()
        return (self._share.pairs - close) * (self._share.world / self._share.batch_size)

    def _texts(self, step: int) -> NDArray[np.int64]:
        """Tokens of a text for each pair of the global batch."""
        draws, end = generator(self._seed, "texts", step), len(self._regression.vectors_VE) - 1
        tokens_BT = np.zeros((self._share.batch_size, self._length), np.int64)
        for row_T in tokens_BT:
            words = self._joined(draws) if draws.random() < JOINED else self._drawn(draws)
            words = words[: self._length - 2]
            row_T[: len(words) + 2] = [end - 1, *words, end]
        return tokens_BT

    def _joined(self, draws: np.random.Generator) -> NDArray[np.int64]:
        halves = (self._half(draws, self._captions[number]) for number in draws.integers(len(self._captions), size=2))
        return np.concatenate(list(halves))

    def _half(self, draws: np.random.Generator, words: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = words[draws.random(len(words)) < KEPT]
        return kept if len(kept) else words[:1]

    def _drawn(self, draws: np.random.Generator) -> NDArray[np.int64]:
        return draws.choice(self._words_W, draws.integers(1, MOST_WORDS + 1))
