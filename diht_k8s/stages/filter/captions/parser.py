"""Caption parser: spaCy's tags and dependency trees, the corrections of this package, then the graph.

The rules follow the guidelines for annotating the test captions (`tests/recipe/filter/captions/GUIDELINES.md`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from diht_k8s.stages.filter.captions.cleaning import PlainText, clean, is_foreign, plain
from diht_k8s.stages.filter.captions.corrections import correct
from diht_k8s.stages.filter.captions.dependency_parsers import ParserKind, SpacyParser, load_parser
from diht_k8s.stages.filter.captions.graph import CaptionGraph
from diht_k8s.stages.filter.captions.lexicon import Lexicon
from diht_k8s.stages.filter.captions.noun_phrases import find_phrases
from diht_k8s.stages.filter.captions.relations import build_graph
from diht_k8s.stages.filter.captions.tree import Token, unlink

CACHED: Final = 50_000
MAX_CHARACTERS: Final = 1000
"""Longer text is cut: it is not a caption, and the parser's time grows with the length."""


class CaptionParser:
    """Parses captions; the first one loads the models, which freezes objects of the whole process (see
    `FastParser`).
    """

    def __init__(self, *, cached: int = CACHED, kind: ParserKind = "Fast") -> None:
        """Create a parser; no model is loaded yet.

        Args:
            kind: what makes the trees; both give the same ones.
            cached: number of graphs to cache, since web captions repeat; 0 turns the cache off.
        """
        self._max_cached = cached
        self._kind: ParserKind = kind
        self._dependency_parser: SpacyParser | None = None
        self._cache: OrderedDict[str, CaptionGraph] = OrderedDict()

    def parse(self, captions: Sequence[str]) -> list[CaptionGraph]:
        """A graph for each caption, in order.

        Raises:
            TypeError: one caption was given in place of a list of them.
        """
        if isinstance(captions, str):
            raise TypeError(
                "captions is one text, and each of its characters would be parsed: write parse([caption])[0]"
            )
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._cache]
        graphs = dict(zip(new, self._parse(new), strict=True)) if new else {}
        result = [graphs[caption] if caption in graphs else self._cached_graph(caption) for caption in captions]
        self._store(graphs)
        return result

    def _cached_graph(self, caption: str) -> CaptionGraph:
        self._cache.move_to_end(caption)
        return self._cache[caption]

    def _store(self, graphs: dict[str, CaptionGraph]) -> None:
        self._cache.update(graphs)
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)

    def _parse(self, captions: Sequence[str]) -> list[CaptionGraph]:
        """Graphs of distinct captions, sorted by length, so the captions of a batch finish together."""
        if self._dependency_parser is None or self._dependency_parser.is_full:
            self._dependency_parser = (
                None  # first, so memory never holds both, and the old one is not frozen with the new
            )
            self._dependency_parser = load_parser(self._kind)
        lexicon = self._dependency_parser.lexicon
        read = [prepared(caption) for caption in captions]
        texts = [text for text, _, _ in read]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        graphs: list[CaptionGraph] = [CaptionGraph()] * len(texts)
        words = self._dependency_parser.parse(["" if is_foreign(texts[index]) else texts[index] for index in order])
        for index, tokens in zip(order, words, strict=True):
            _, title, without = read[index]
            graph = graph_of(tokens, lexicon, title)
            graphs[index] = graph if without is None else graph.placed(without.span)
        return graphs


def prepared(caption: str) -> tuple[str, str, PlainText | None]:
    """What the tagger reads of a caption, its title (both of `clean`), and the text without markup if it had any."""
    without = plain(caption[:MAX_CHARACTERS])
    return *clean(caption[:MAX_CHARACTERS] if without is None else without.text), without


def graph_of(tokens: Sequence[Token], lexicon: Lexicon, title: str) -> CaptionGraph:
    """The graph of a caption.

    Args:
        tokens: its tagged and parsed words; consumed by the call.
        lexicon: lemmas and word classes.
        title: the second result of `prepared`.
    """
    corrected = correct(list(tokens), lexicon, title=title)
    graph = build_graph(corrected, find_phrases(corrected, lexicon), lexicon)
    unlink(tokens)
    return graph
