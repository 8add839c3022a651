"""Vocabulary of the captions seen so far: each word is analysed once and looked up afterwards.

Like spaCy's tokenizer, this splits a text at blanks, and tokenizes each piece once. Pieces of plain letters or digits,
perhaps with a mark after them, are most of the new ones. They never reach spaCy, which would store them forever. (spaCy
looks across a blank in one case: it takes the marks of "( :)" for an emoticon, and misses the real one if letters
follow.)
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from spacy.language import Language

    from diht_k8s.stages.filter.captions.encoder import Encoder

PIECE: Final = re.compile(r"\S+ ?|\s+")
"""Characters with the blank after them, which belongs to the word before it. Further blanks are a word of their own, as
in spaCy.
"""
APART: Final = " \n "
"""Separator of pieces that are tokenized together: a word of blanks, which no rule of the tokenizer crosses."""
MAX_WORDS: Final = 65_536
"""Number of distinct words (25 MiB of vectors) after which the table is cleared before the next texts."""
MAX_PIECES: Final = 200_000
"""The same for distinct pieces."""
MARKS: Final = frozenset(",:;!?)")
"""Marks that the tokenizer always splits off after letters or digits."""
ALIKE: Final = str.maketrans(
    string.ascii_uppercase + string.ascii_lowercase + string.digits, "X" * 26 + "x" * 26 + "0" * 10
)
"""Characters that have one SHAPE."""
CACHED_PARTS: Final = 1 << 14
_Features = tuple[str, list[int]]
"""A word with its NORM, PREFIX, SUFFIX and SHAPE, the inputs of spaCy's encoder."""


class Lexeme(NamedTuple):
    """A word independent of its position, with what the rules need to know."""

    lower: str
    length: int
    width: int
    """characters, including the blank after it."""
    is_space: bool
    is_name: bool
    """only capitals ("LED lamp"): not a verb, since captions in capitals arrive in lower case."""


class Vocab:
    """The words seen so far, one row each. A word with and the same word without a blank after it have two rows."""

    def __init__(self, language: Language, encoder: Encoder) -> None:
        """Start with no words.

        Args:
            language: pipeline whose tokenizer finds the words.
            encoder: computes their vectors without context.
        """
        from spacy import attrs  # type: ignore[attr-defined]

        self._tokenizer: Any = language.tokenizer
        self._special = frozenset(self._tokenizer.rules)
        self._strings, self._encoder = language.vocab.strings, encoder
        getters: Any = language.vocab.lex_attr_getters  # type: ignore[attr-defined]
        features = [attrs.NORM, attrs.PREFIX, attrs.SUFFIX, attrs.SHAPE]
        self._columns = [attrs.ORTH, *features]
        self._norm, *parts = (_hashed(getters[feature]) for feature in features)
        self._prefix, self._suffix, self._shape = (lru_cache(CACHED_PARTS)(part) for part in parts)
        self._clear()

    def _clear(self) -> None:
        self.known: list[Lexeme] = []
        self.vectors_MD = np.empty((1024, self._encoder.width), "f")
        self._row_of: dict[tuple[str, int, bool], int] = {}
        self._rows_of: dict[str, tuple[int, ...]] = {}

    def rows(self, texts: Iterable[str]) -> list[list[int]]:
        """The rows of each text's words, valid until the next call."""
        if len(self.known) > MAX_WORDS or len(self._rows_of) > MAX_PIECES:
            self._clear()
        found, rows_of = [PIECE.findall(text) for text in texts], self._rows_of
        self._learn([piece for piece in dict.fromkeys(chain.from_iterable(found)) if piece not in rows_of])
        return [list(chain.from_iterable(map(rows_of.__getitem__, pieces))) for pieces in found]

    def _learn(self, pieces: Sequence[str]) -> None:
        """Tokenize new pieces, and add rows for their new words."""
        tokenized = list(
            self._tokenize_pieces(pieces)
        )  # first, so a tokenizer that fails leaves no row without a vector
        count = len(self.known)
        new: list[list[int]] = []
        for piece, parts in tokenized:
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
        """The row of a word; appends the encoder's inputs for a new word to `new`."""
        row = self._row_of.setdefault((text, features[0], before_blank), len(self.known))
        if row == len(self.known):
            is_space, is_name = text.isspace(), text.isupper() and len(text) > 1
            self.known.append(Lexeme(text.lower(), len(text), len(text) + before_blank, is_space, is_name))
            new.append([*features, before_blank, is_space])
        return row

    def _tokenize_pieces(self, pieces: Iterable[str]) -> Iterator[tuple[str, list[_Features]]]:
        """Tokenize the pieces; yields each one with its words."""
        others: list[str] = []
        for piece in pieces:
            if words := self._plain_words(piece.removesuffix(" ")):
                yield piece, [(word, self._features(word)) for word in words]
            elif piece.isspace():
                yield piece, self._tokenize(piece)
            else:
                others.append(piece)
        words = self._tokenize(APART.join(piece.removesuffix(" ") for piece in others))
        groups = (list(group) for is_space, group in groupby(words, key=lambda word: word[0].isspace()) if not is_space)
        yield from zip(others, groups, strict=True)

    def _plain_words(self, text: str) -> tuple[str, ...]:
        """The words of a piece of letters or digits, perhaps with a mark after it; none for any other piece."""
        if text in self._special:
            return ()
        if _is_plain(text):
            return (text,)
        word, mark = text[:-1], text[-1:]
        if not _is_plain(word) or word in self._special:
            return ()
        splits = mark in MARKS or (mark == "." and not word[-1].isupper())
        return (word, mark) if splits else ()

    def _features(self, word: str) -> list[int]:
        """What spaCy's getters give, which read only a part of a word; those parts repeat."""
        return [self._norm(word), self._prefix(word[0]), self._suffix(word[-3:]), self._shape(word.translate(ALIKE))]

    def _tokenize(self, text: str) -> list[_Features]:
        doc = self._tokenizer(text)
        return [(self._strings[orth], features) for orth, *features in doc.to_array(self._columns).tolist()]


def _is_plain(text: str) -> bool:
    return text.isascii() and (text.isalpha() or text.isdigit())


def _hashed(getter: Callable[[str], str]) -> Callable[[str], int]:
    from spacy.strings import get_string_id  # type: ignore[attr-defined]

    return lambda text: get_string_id(getter(text))
