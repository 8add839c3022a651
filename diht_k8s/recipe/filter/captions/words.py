"""Captions in, words out, each by its number: what is known of a word is worked out once and looked up from then on.

spaCy's tokenizer goes by the text between blanks, and so do we: each such piece is taken apart once. Pieces of plain letters, most of
the new ones, are one word each and never reach spaCy, which would keep them for good. (spaCy looks across a blank in one case: the
marks of "( :)" look like an emoticon to it, so that it does not see the real one if letters follow.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from spacy.language import Language

    from diht_k8s.recipe.filter.captions.encoder import Encoder

PIECE: Final = re.compile(r"\S+ ?|\s+")
"""Characters up to a blank, which belongs to the word before it; further blanks are a word of their own, as spaCy has it."""
APART: Final = " \n "
"""Between pieces that are tokenized together: a word of blanks, across which no rule of the tokenizer reaches."""
MAX_WORDS: Final = 65_536
"""With more distinct words than these, whose vectors take 25 MiB, all are forgotten before the next texts."""
MAX_PIECES: Final = 200_000
"""The same for pieces."""
_Features = tuple[str, list[int]]
"""A word and its NORM, PREFIX, SUFFIX and SHAPE, by which spaCy's encoder knows it."""


class Word(NamedTuple):
    """What the rules read of a word, wherever it stands."""

    lower: str
    length: int
    width: int
    """characters with the blank behind."""
    is_space: bool
    is_name: bool
    """capitals only ("LED lamp"): no verb, since captions in capitals arrive in lower case."""


class Words:
    """The words seen so far, in rows; a word before a blank and the same word before none are two."""

    def __init__(self, language: Language, encoder: Encoder) -> None:
        """Words as a pipeline's tokenizer finds them, with the vectors that its encoder begins with."""
        from spacy import attrs  # type: ignore[attr-defined]

        self._tokenizer: Any = language.tokenizer
        self._special = frozenset(self._tokenizer.rules)
        self._strings, self._encoder = language.vocab.strings, encoder
        getters: Any = language.vocab.lex_attr_getters  # type: ignore[attr-defined]
        features = [attrs.NORM, attrs.PREFIX, attrs.SUFFIX, attrs.SHAPE]
        self._columns, self._getters = [attrs.ORTH, *features], [getters[feature] for feature in features]
        self._forget()

    def _forget(self) -> None:
        self.known: list[Word] = []
        self.vectors_MD = np.empty((1024, self._encoder.width), "f")
        self._row_of: dict[tuple[str, int, bool], int] = {}
        self._rows_of: dict[str, tuple[int, ...]] = {}

    def rows(self, texts: Iterable[str]) -> list[list[int]]:
        """The rows of each text's words, valid until the next call."""
        if len(self.known) > MAX_WORDS or len(self._rows_of) > MAX_PIECES:
            self._forget()
        found, rows_of = [PIECE.findall(text) for text in texts], self._rows_of
        self._learn([piece for piece in dict.fromkeys(chain.from_iterable(found)) if piece not in rows_of])
        return [[row for piece in pieces for row in rows_of[piece]] for pieces in found]

    def _learn(self, pieces: Sequence[str]) -> None:
        """Take new pieces apart, and give rows to the words among them that are new."""
        taken_apart = list(self._taken_apart(pieces))  # first: a tokenizer that fails must leave no row without vector
        count = len(self.known)
        new: list[list[int]] = []
        for piece, parts in taken_apart:
            last = len(parts) - 1 if piece[-1] == " " and not piece.isspace() else None
            self._rows_of[piece] = tuple(
                self._row(text, features, place == last, new) for place, (text, features) in enumerate(parts)
            )
        if new:
            stop = len(self.known)
            if stop > len(self.vectors_MD):
                grown_MD = np.empty((2 * stop, self._encoder.width), "f")
                grown_MD[:count] = self.vectors_MD[:count]
                self.vectors_MD = grown_MD
            self.vectors_MD[count:stop] = self._encoder.embed(np.array(new, np.uint64))

    def _row(self, text: str, features: list[int], before_blank: bool, new: list[list[int]]) -> int:
        """The row of a word; one that is new adds to `new` what the encoder wants to know of it."""
        row = self._row_of.setdefault((text, features[0], before_blank), len(self.known))
        if row == len(self.known):
            is_space, is_name = text.isspace(), text.isupper() and len(text) > 1
            self.known.append(Word(text.lower(), len(text), len(text) + before_blank, is_space, is_name))
            new.append([*features, before_blank, is_space])
        return row

    def _taken_apart(self, pieces: Iterable[str]) -> Iterator[tuple[str, list[_Features]]]:
        """Each piece with its words."""
        from spacy.strings import get_string_id  # type: ignore[attr-defined]

        others: list[str] = []
        for piece in pieces:
            text = piece.removesuffix(" ")
            if text.isalpha() and text.isascii() and text not in self._special:
                yield piece, [(text, [get_string_id(getter(text)) for getter in self._getters])]
            elif piece.isspace():
                yield piece, self._tokenized(piece)
            else:
                others.append(piece)
        words = self._tokenized(APART.join(piece.removesuffix(" ") for piece in others))
        groups = (list(group) for is_space, group in groupby(words, key=lambda word: word[0].isspace()) if not is_space)
        yield from zip(others, groups, strict=True)

    def _tokenized(self, text: str) -> list[_Features]:
        doc = self._tokenizer(text)
        return [(self._strings[orth], features) for orth, *features in doc.to_array(self._columns).tolist()]
