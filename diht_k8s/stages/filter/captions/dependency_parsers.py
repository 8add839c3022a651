"""The two dependency parsers, with the same model and the same trees: a fast one in NumPy, and spaCy's own.

The fast one stays beside spaCy because it parses 2.0 to 2.3 times as many captions in a CPU second, rules and graphs
included, with equal verdicts (`benchmarks/run captions`), which matters for tables of a billion captions. spaCy loads
the model and tokenizes everything but plain words. The rest (`vocab`, `encoder`, `transition_parser`) has the weights
of the model and gives the same results. `fast_or_spacy` compares the two on fixed captions when the model is loaded,
since an untested version of spaCy, NumPy or the model could make them differ.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from diht_k8s.models.files import check_files, parser_module
from diht_k8s.stages.filter.captions.encoder import Encoder
from diht_k8s.stages.filter.captions.lexicon import Lexicon, make_lexicon
from diht_k8s.stages.filter.captions.transition_parser import TransitionParser
from diht_k8s.stages.filter.captions.tree import Token, link
from diht_k8s.stages.filter.captions.vocab import Lexeme, Vocab

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

HYPHENS: Final = "-|\u2013|\u2014"
"""Part of the tokenizer's pattern that splits words at hyphens; without it "non-stick" is one word."""
NO_CONTRACTIONS: Final = frozenset(("Wed", "wed", "Id", "id"))
"""A day, "married" and a card, which spaCy takes for "we'd" and "I'd"."""
AT_ONCE: Final = 25_000
"""Characters per batch (about 430 captions); larger batches only take more memory."""
MAX_STRINGS: Final = 500_000
"""Number of strings after which the parser should be re-created, since spaCy stores every string that it sees."""


class SpacyParser:
    """Tags and parses texts with spaCy's own pipeline."""

    def __init__(self, language: Language, lexicon: Lexicon) -> None:
        """Take what `load` gives."""
        self.language, self.lexicon = language, lexicon

    @property
    def is_full(self) -> bool:
        """Whether spaCy has stored more than `MAX_STRINGS` strings, so that a new parser should replace this one."""
        return len(self.language.vocab.strings) > MAX_STRINGS

    def parse(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        """The words of each text, without blanks, linked to a tree; fastest if the texts are sorted by length."""
        for doc in self.language.pipe(texts):
            yield words_of(doc)


def words_of(doc: Doc) -> list[Token]:
    """The words of spaCy's parse as a tree; a verb in capitals counts as a name, as in the fast parser."""
    made = [
        None
        if word.is_space
        else Token(
            word.lower_,
            "NNP" if word.tag_.startswith("VB") and word.text.isupper() and len(word) > 1 else word.tag_,
            word.dep_,
            word.idx,
            word.idx + len(word),
        )
        for word in doc
    ]
    return link(made, [word.head.i - word.i for word in doc])


class FastParser(SpacyParser):
    """Tags and parses in NumPy; holds the models.

    Creating one freezes all objects that Python's collector tracks at that time, in the whole process. The model keeps
    a quarter of a million objects, which each full collection would otherwise traverse. The next parser unfreezes them
    first. If other code froze objects before the first parser, parsers never freeze or unfreeze.
    """

    _freezes: ClassVar[bool | None] = None
    """whether parsers freeze and unfreeze objects; None before the first one."""

    def __init__(self) -> None:
        """Load the model and the word index that comes with it."""
        if FastParser._freezes is None:
            FastParser._freezes = gc.get_freeze_count() == 0
        if FastParser._freezes:
            gc.unfreeze()
        super().__init__(*load())
        self._encoder = Encoder(self.language.get_pipe("tok2vec").model)  # type: ignore[attr-defined]
        self._vocab = Vocab(self.language, self._encoder)
        tagger: Any = self.language.get_pipe("tagger")
        softmax = tagger.model.layers[1].layers[0]
        self._tag_weights_DL, self._tag_bias_L = softmax.get_param("W").T.copy(), softmax.get_param("b")
        self._tags: tuple[str, ...] = tagger.labels
        self._transition_parser = TransitionParser(self.language.get_pipe("parser"))
        if FastParser._freezes:
            gc.collect()
            gc.freeze()

    def parse(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        """As spaCy's, batch by batch."""
        for batch in _batches(texts):
            yield from self._parse(self._vocab.rows(batch))

    def _parse(self, rows: Sequence[Sequence[int]]) -> Iterator[list[Token]]:
        lengths = [len(text) for text in rows]
        rows_N = np.fromiter(chain.from_iterable(rows), np.intp, sum(lengths))
        vectors_ND = self._encoder.encode(self._vocab.vectors_MD[rows_N], lengths)
        tags = (vectors_ND @ self._tag_weights_DL + self._tag_bias_L).argmax(axis=1).tolist()
        heads, labels = (found_N.tolist() for found_N in self._transition_parser.parse(vectors_ND, lengths))
        known, start = self._vocab.known, 0
        for text in rows:
            part = slice(start, start + len(text))
            yield self._tree([known[row] for row in text], tags[part], heads[part], labels[part])
            start += len(text)

    def _tree(self, words: Sequence[Lexeme], tags: Sequence[int], heads: list[int], labels: list[int]) -> list[Token]:
        if not self._transition_parser.crossing.isdisjoint(labels):
            self._transition_parser.uncross(heads, labels, [word.is_space for word in words])
        tokens: list[Token | None] = []
        names, deps, place = self._tags, self._transition_parser.labels, 0
        for (lower, length, width, is_space, is_name), tag, label in zip(words, tags, labels, strict=True):
            name = names[tag]
            if is_name and name[:2] == "VB":
                name = "NNP"
            tokens.append(None if is_space else Token(lower, name, deps[label], place, place + length))
            place += width
        return link(tokens, heads)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Batches of texts; each ends with the text that reaches `AT_ONCE` characters."""
    start = characters = 0
    for stop, text in enumerate(texts, 1):
        characters += len(text)
        if characters >= AT_ONCE or stop == len(texts):
            yield texts[start:stop]
            start, characters = stop, 0


def load() -> tuple[Language, Lexicon]:
    """SpaCy's pipeline (tokenizer, tagger and parser only) and the word index that comes with it.

    Raises:
        UserError: the model is not installed, or its files are not those that were tested.
    """
    from spacy import attrs  # type: ignore[attr-defined]
    from spacy.util import compile_infix_regex

    module = parser_module()
    check_files(module)
    language: Language = import_module(module).load(exclude=["ner", "senter"])
    lookups = language.get_pipe("lemmatizer").lookups  # type: ignore[attr-defined]
    index, exceptions = lookups.get_table("lemma_index"), lookups.get_table("lemma_exc")
    lexicon = make_lexicon({kind: index[kind] for kind in ("noun", "verb", "adj", "adv")}, exceptions)
    language.remove_pipe("lemmatizer")
    language.remove_pipe("attribute_ruler")
    infixes = [pattern for pattern in language.Defaults.infixes or () if HYPHENS not in str(pattern)]
    language.tokenizer.infix_finditer = compile_infix_regex(infixes).finditer  # type: ignore[union-attr]
    rules = language.tokenizer.rules or {}  # type: ignore[union-attr]
    rules = {text: parts for text, parts in rules.items() if text not in NO_CONTRACTIONS}
    language.tokenizer.rules = rules  # type: ignore[union-attr]
    needed = {attrs.NORM, attrs.PREFIX, attrs.SUFFIX, attrs.SHAPE, attrs.LOWER, attrs.IS_SPACE}
    getters: dict[int, Any] = language.vocab.lex_attr_getters  # type: ignore[attr-defined]
    for attribute in [attribute for attribute in getters if attribute not in needed]:
        del getters[attribute]  # they would be computed for each new word
    return language, lexicon


ParserKind = Literal["Fast", "Spacy"]
FIXED: Final = (
    "a small dog chasing a red ball in the park",
    "two men standing next to each other holding tennis rackets",
    "Women's Black Leather Ankle Boots with Side Zip",
    "the fence my uncle built",
    "RED FOX IN FRESH SNOW",
    "striker Jonas Feld celebrates after scoring the winning goal",
    "a glass full of water, half-empty (blurred)",
    "hundreds of angry farmers block the main road",
    "Dr. Maya Lind's portrait of St. John, 1912",
    "12 Piece Non-Stick Cookware Set - 500 ml",
    "Vase | White & Gold",
    "kneading dough for sourdough bread",
    "the keys aren't on the desk, they're in Tom's bag",
    "pizza cut by the chef and served with basil",
    "view of the harbor  from   the tower",
    "a boy who broke the window runs away",
    "caf\u00e9 cr\u00e8me at 10:30 a.m.",
    "sandals $29.99 :)",
    "x",
    "the temple was built by monks and later rebuilt by King Orlan near the river that separates the old town from "
    "the port",
)
"""Kinds of captions and of tokens: names, titles, possessives, contractions, numbers, signs, blanks, crossing arcs."""

logger = logging.getLogger(__name__)


def load_parser(kind: ParserKind) -> SpacyParser:
    """Load the model.

    Args:
        kind: `Spacy`; or `Fast`, which is spaCy's where the two differ on the fixed captions.
    """
    if kind == "Spacy":
        return SpacyParser(*load())
    return fast_or_spacy(FastParser())


def fast_or_spacy(fast: FastParser) -> SpacyParser:
    """The fast parser, or spaCy's with a warning if their trees of a fixed caption differ."""
    slow = SpacyParser(fast.language, fast.lexicon)
    pairs = zip(FIXED, slow.parse(FIXED), fast.parse(FIXED), strict=True)
    different = next((text for text, one, two in pairs if _plain(one) != _plain(two)), None)
    if different is None:
        return fast
    logger.warning(
        "the fast caption parser and spaCy read %r differently, so spaCy itself parses, at half the speed: install the "
        "versions of spaCy, NumPy and the model that constraints.txt names",
        different,
    )
    return slow


def _plain(tokens: Sequence[Token]) -> list[tuple[str, str, str, int, int, int]]:
    return [(token.lower, token.tag, token.dep, token.head.i, token.start, token.end) for token in tokens]
