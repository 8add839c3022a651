"""Captions in, graphs out: spaCy's tagger and dependency parser, then the rules of this package.

The rules follow the guidelines by which the test captions were annotated (`tests/recipe/filter/captions/GUIDELINES.md`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from diht_k8s.recipe.filter.captions.cleaning import clean, is_foreign
from diht_k8s.recipe.filter.captions.corrections import correct
from diht_k8s.recipe.filter.captions.graph import CaptionGraph
from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.phrases import find_phrases
from diht_k8s.recipe.filter.captions.relations import build_graph
from diht_k8s.recipe.filter.captions.tagger import Tagger
from diht_k8s.recipe.filter.captions.tree import Token, unlink

CACHED: Final = 50_000
MAX_CHARACTERS: Final = 1000
"""What stands beyond is no caption; the parser's time grows with the length."""


class CaptionParser:
    """Parses captions; the models are loaded at the first caption, which freezes objects of the whole process (see `Tagger`)."""

    def __init__(self, *, cached: int = CACHED) -> None:
        """Make a parser.

        Args:
            cached: so many graphs are remembered, since web captions repeat; 0 remembers none.
        """
        self._cached = cached
        self._tagger: Tagger | None = None
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
        if self._tagger is None or self._tagger.is_full:
            self._tagger = None  # first, so that the two are never held together, nor the old one frozen with the new
            self._tagger = Tagger()
        lexicon = self._tagger.lexicon
        cleaned = [clean(caption[:MAX_CHARACTERS]) for caption in captions]
        texts = [text for text, _ in cleaned]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        graphs: list[CaptionGraph] = [CaptionGraph()] * len(texts)
        words = self._tagger.parse(["" if is_foreign(texts[index]) else texts[index] for index in order])
        for index, tokens in zip(order, words, strict=True):
            graphs[index] = graph_of(tokens, lexicon, cleaned[index][1])
        return graphs


def graph_of(tokens: Sequence[Token], lexicon: Lexicon, title: str) -> CaptionGraph:
    """The graph of a caption from its tagged and parsed words, which are used up; `title` as `clean` gives it."""
    corrected = correct(list(tokens), lexicon, title=title)
    graph = build_graph(corrected, find_phrases(corrected, lexicon), lexicon)
    unlink(tokens)
    return graph
