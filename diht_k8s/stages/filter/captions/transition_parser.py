"""Transition parser: spaCy's greedy one in NumPy, in which all captions of a batch take their next step together.

The state of a caption is a stack and a buffer of its words (arc-eager, in spaCy's variant: a word that leaves the stack
without a head returns to the buffer, and a move may start a new sentence). Both are linked lists in arrays over all
words of the batch, so a step costs the same few dozen array operations for one caption or for hundreds. The weights are
those of the model; heads and labels equal spaCy's, which the tests check.

Legend: N words, R rows (row 0 for "none", then the words), S unfinished captions, F features of a state (words that the
network sees), D width of a word's row, D1 width with a column that is one for "none" only, P pieces of a maxout (2), H
hidden units, M moves, V sums of bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

NONE: Final = 0
"""Row that stands for no word; zero, so `nonzero` finds words."""
SHIFT, REDUCE, LEFT, RIGHT, BREAK = (ord(letter) for letter in "SDLRB")
"""First letters of the names of spaCy's moves."""
KINDS_OF_BIT: Final = ((SHIFT,), (REDUCE,), (LEFT, RIGHT), (BREAK,))
"""Moves that are valid together; a sum of bits encodes the valid ones."""
VALID: Final = 1 << len(KINDS_OF_BIT)
FRONT, SECOND, TOP, TOP_1, TOP_2, FRONT_LEFT, TOP_LEFT, TOP_RIGHT = range(8)
"""Features: the first two words of the buffer, the top three of the stack, and the children found last."""
FEATURES: Final = 8
ROOT: Final = "ROOT"
DECORATION: Final = "||"
"""Separator in a label: "prep||dobj" is a `prep` of a `dobj` below the assigned head, whose arc would cross another
one.
"""


class TransitionParser:
    """The moves, and the network that picks the next move of each state."""

    def __init__(self, parser: Any) -> None:
        """Take moves and weights from spaCy's `parser` component."""
        listener, lower, upper = parser.model.layers
        narrow, weights_FHPD, none_FHP = listener.layers[-1], lower.get_param("W"), lower.get_param("pad")[0]
        assert weights_FHPD.shape[::2] == (FEATURES, 2), "states have the features below, units two pieces"
        assert not parser.model.attrs["unseen_classes"], "every move has a score"
        self._narrow_DD, self._narrow_bias_D = narrow.get_param("W").T.copy(), narrow.get_param("b")
        weights_FHPD1 = np.concatenate([weights_FHPD, none_FHP[..., None]], axis=3)
        self._lower_FD1xPH = weights_FHPD1.transpose(0, 3, 2, 1).reshape(-1, none_FHP[0].size).copy()
        self._lower_bias_PH = lower.get_param("b").T.reshape(-1).copy()
        self._upper_HM = upper.get_param("W").T.copy()
        names: list[str] = parser.move_names
        labels = [name[2:] for name in names]
        self.labels = list(dict.fromkeys([ROOT, *labels, *(label.split(DECORATION)[0] for label in labels)]))
        self.crossing = frozenset(place for place, label in enumerate(self.labels) if DECORATION in label)
        """indices of decorated labels, which `uncross` resolves."""
        self._kind_M = np.array([ord(name[0]) for name in names])
        self._label_M = np.array([self.labels.index(label) for label in labels])
        self._reduce = names.index(chr(REDUCE))
        self._bias_VM = np.array([_bias(self._kind_M, upper.get_param("b"), valid) for valid in range(VALID)])

    def parse(self, vectors_ND: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Parse captions.

        Args:
            vectors_ND: vectors of the words in context, caption after caption.
            lengths: number of words of each caption.

        Returns:
            Heads of the words as distances, [N] (0 for a root), and their labels as indices into `labels`, [N]; some
            are decorated.
        """
        states = _States(lengths)
        rows_RD1 = self._rows(vectors_ND)
        while len(states.top_S):
            features_SF = states.features()
            valid_S, open_ = states.valid(features_SF), states.front_S.nonzero()[0]
            moves_S = np.full(len(valid_S), self._reduce)  # the only move with an empty buffer
            moves_S[open_] = self._best(rows_RD1, features_SF[open_], valid_S[open_])
            states.move(self._kind_M[moves_S], self._label_M[moves_S])
        heads_N, labels_N = states.heads_R[1:], states.labels_R[1:]
        roots_N = heads_N == NONE
        labels_N[roots_N] = self.labels.index(ROOT)
        return np.where(roots_N, 0, heads_N - np.arange(1, len(heads_N) + 1)), labels_N

    def uncross(self, heads: list[int], labels: list[int], spaces: Sequence[bool]) -> None:
        """Resolve the decorated labels of one caption into plain labels and heads.

        Args:
            heads: distances; changed in place.
            labels: indices into `labels`; changed in place.
            spaces: whether each word is only blanks; those are skipped.
        """
        children: list[list[int]] = [[] for _ in heads]
        for word, distance in enumerate(heads):
            if distance and not spaces[word]:
                children[word + distance].append(word)
        for word, label in enumerate(labels):
            if label not in self.crossing:
                continue
            plain, wanted = self.labels[label].split(DECORATION)
            labels[word] = self.labels.index(plain)
            old = word + heads[word]
            below = (child for child in _breadth_first(children, old, word) if self.labels[labels[child]] == wanted)
            new = next(below, None)
            if new is not None:
                heads[word] = new - word
                children[old] = [child for child in children[old] if child != word]

    def _rows(self, vectors_ND: np.ndarray) -> np.ndarray:
        """The network's inputs, [R, D1]: a row for "none" that ends with a one, then the rows of the words."""
        rows_RD1 = np.zeros((len(vectors_ND) + 1, self._narrow_DD.shape[1] + 1), "f")
        rows_RD1[NONE, -1] = 1
        np.add(vectors_ND @ self._narrow_DD, self._narrow_bias_D, out=rows_RD1[1:, :-1])
        return rows_RD1

    def _best(self, rows_RD1: np.ndarray, features_SF: np.ndarray, valid_S: np.ndarray) -> np.ndarray:
        """The valid move with the highest score for each state."""
        inputs_SxFD1 = rows_RD1.take(features_SF, axis=0).reshape(-1, len(self._lower_FD1xPH))
        y_SxPH = inputs_SxFD1 @ self._lower_FD1xPH
        y_SxPH += self._lower_bias_PH
        units = len(self._upper_HM)
        scores_SM = np.maximum(y_SxPH[:, :units], y_SxPH[:, units:]) @ self._upper_HM
        scores_SM += self._bias_VM[valid_S]
        return scores_SM.argmax(axis=1)


class _States:
    """Stack, buffer and arcs of each unfinished caption."""

    def __init__(self, lengths: Sequence[int]) -> None:
        lengths_S = np.array([length for length in lengths if length], np.intp)
        last_S, rows = lengths_S.cumsum(), int(lengths_S.sum()) + 1
        self.front_S, self.top_S = last_S - lengths_S + 1, np.zeros_like(last_S)
        """first word of the buffer, top word of the stack."""
        self._behind_R = np.arange(1, rows + 1)
        """next word of the buffer."""
        self._behind_R[NONE] = self._behind_R[last_S] = NONE
        self._below_R, self._left_R, self._right_R, self._elder_R = np.zeros((4, rows), np.intp)
        """the word below on the stack; the child found last on the left and on the right; the right child found before
        a child.
        """
        self.heads_R, self.labels_R = np.zeros((2, rows), np.intp)
        self._starts_R, self._came_back_R = np.zeros((2, rows), bool)
        """whether a word starts a sentence, and whether it returned from the stack."""

    def features(self) -> np.ndarray:
        """The words that the network sees of each state, [S, F]."""
        features_SF = np.empty((len(self.top_S), FEATURES), np.intp)
        features_SF[:, FRONT] = self.front_S
        features_SF[:, SECOND] = self._behind_R[self.front_S]
        features_SF[:, TOP] = self.top_S
        features_SF[:, TOP_1] = self._below_R[self.top_S]
        features_SF[:, TOP_2] = self._below_R[features_SF[:, TOP_1]]
        features_SF[:, FRONT_LEFT] = self._left_R[self.front_S]
        features_SF[:, TOP_LEFT] = self._left_R[self.top_S]
        features_SF[:, TOP_RIGHT] = self._right_R[self.top_S]
        return features_SF

    def valid(self, features_SF: np.ndarray) -> np.ndarray:
        """The valid moves of each state as a sum of bits in the order of `KINDS_OF_BIT`, [S]."""
        front_S, second_S = self.front_S, features_SF[:, SECOND]
        has_stack_S, same_sentence_S = self.top_S != NONE, ~self._starts_R[front_S]
        may_shift_S = ~has_stack_S | (same_sentence_S & (second_S != NONE) & ~self._came_back_R[front_S])
        may_join_S = has_stack_S & same_sentence_S & (front_S != NONE)
        may_break_S = (second_S == front_S + 1) & ~self._starts_R[second_S]
        return may_shift_S + 2 * has_stack_S + 4 * may_join_S + 8 * may_break_S

    def move(self, kinds_S: np.ndarray, labels_S: np.ndarray) -> None:
        """Make one move in each caption, then remove the finished ones."""
        left, right, reduced, broken = ((kinds_S == kind).nonzero()[0] for kind in (LEFT, RIGHT, REDUCE, BREAK))
        self._join_left(left, labels_S[left])
        self._join_right(right, labels_S[right])
        self._push(((kinds_S == SHIFT) | (kinds_S == RIGHT)).nonzero()[0])
        self._reduce(reduced)
        self._starts_R[self._behind_R[self.front_S[broken]]] = True
        on = (self.top_S | self.front_S).nonzero()[0]
        if len(on) < len(self.top_S):
            self.front_S, self.top_S = self.front_S[on], self.top_S[on]

    def _push(self, which: np.ndarray) -> None:
        front = self.front_S[which]
        self._below_R[front] = self.top_S[which]
        self.top_S[which] = front
        self.front_S[which] = self._behind_R[front]

    def _join_left(self, which: np.ndarray, labels: np.ndarray) -> None:
        """Make the front the head of the top, replacing any other head, and pop the top."""
        top, front = self.top_S[which], self.front_S[which]
        self._right_R[self.heads_R[top]] = self._elder_R[top]
        self.heads_R[top], self.labels_R[top] = front, labels
        self._left_R[front], self._came_back_R[front] = top, False
        self.top_S[which] = self._below_R[top]

    def _join_right(self, which: np.ndarray, labels: np.ndarray) -> None:
        """Make the top the head of the front, which is then pushed."""
        top, front = self.top_S[which], self.front_S[which]
        self.heads_R[front], self.labels_R[front] = top, labels
        self._elder_R[front] = self._right_R[top]
        self._right_R[top] = front

    def _reduce(self, which: np.ndarray) -> None:
        """Pop the top; it returns to the buffer if it has no head and is not alone on the stack."""
        top = self.top_S[which]
        below = self.top_S[which] = self._below_R[top]
        headless = (below != NONE) & (self.heads_R[top] == NONE)
        back, top = which[headless], top[headless]
        self._behind_R[top], self._came_back_R[top] = self.front_S[back], True
        self.front_S[back] = top


def _bias(kind_M: np.ndarray, bias_M: np.ndarray, valid: int) -> np.ndarray:
    """The bias of each move; minus infinity for invalid kinds."""
    kinds = [kind for bit, kinds in enumerate(KINDS_OF_BIT) if valid >> bit & 1 for kind in kinds]
    return np.where(np.isin(kind_M, kinds), bias_M, np.float32(-np.inf))


def _breadth_first(children: Sequence[Sequence[int]], start: int, without: int) -> Iterator[int]:
    """All words below a word, level by level, without one of them and the words below it."""
    level = [start]
    while level:
        level = [child for word in level for child in children[word] if child != without]
        yield from level
