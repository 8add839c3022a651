"""The two dependency parsers: the fast one in NumPy, and spaCy's own, with the same model and the same trees.

`fast_or_spacy` compares them on fixed captions when the model is loaded, since an untested version of spaCy, NumPy or the
model could make them differ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

from diht_k8s.stages.filter.captions.fast_parser import MAX_STRINGS, FastParser, load
from diht_k8s.stages.filter.captions.lexicon import Lexicon
from diht_k8s.stages.filter.captions.tree import Token, link

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

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
    "the temple was built by monks and later rebuilt by King Orlan near the river that separates the old town from the port",
)
"""Kinds of captions and of tokens: names, titles, possessives, contractions, numbers, signs, blanks, crossing arcs."""

logger = logging.getLogger(__name__)


class DependencyParser(Protocol):
    """Tags and parses texts."""

    @property
    def lexicon(self) -> Lexicon:
        """Lemmas and word classes of the model."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether it has stored more strings than one should keep."""
        ...

    def parse(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        """The words of each text, without blanks, linked to a tree."""
        ...


class SpacyParser:
    """spaCy's own tagger and parser."""

    def __init__(self, language: Language, lexicon: Lexicon) -> None:
        """Take what `fast_parser.load` gives."""
        self._language, self.lexicon = language, lexicon

    @property
    def is_full(self) -> bool:
        """Whether spaCy has stored more than `MAX_STRINGS` strings."""
        return len(self._language.vocab.strings) > MAX_STRINGS

    def parse(self, texts: Sequence[str]) -> Iterator[list[Token]]:
        """The words of each text."""
        for doc in self._language.pipe(texts):
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


def load_parser(kind: ParserKind) -> DependencyParser:
    """Load the model.

    Args:
        kind: `Spacy`; or `Fast`, which is spaCy's where the two differ on the fixed captions.
    """
    if kind == "Spacy":
        return SpacyParser(*load())
    return fast_or_spacy(FastParser())


def fast_or_spacy(fast: FastParser) -> DependencyParser:
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
