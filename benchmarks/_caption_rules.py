"""Graphs and verdicts of captions with and without the caption rules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from diht_k8s.stages.filter.captions.cleaning import is_foreign
from diht_k8s.stages.filter.captions.dependency_parsers import FastParser
from diht_k8s.stages.filter.captions.explain import CorrectionRule
from diht_k8s.stages.filter.captions.graph import CaptionGraph, describe
from diht_k8s.stages.filter.captions.lexicon import Lexicon
from diht_k8s.stages.filter.captions.parser import graph_of, prepared
from diht_k8s.stages.filter.captions.tree import Token, link

Verdict = tuple[bool, bool]
"""C >= 1, A >= 1."""


@dataclass(frozen=True)
class ParsedCaption:
    """A caption with its tree before any rule."""

    caption: str
    title: str
    words: Sequence[tuple[str, str, str, int, int]]
    """arguments of `Token`."""
    heads: Sequence[int]
    """distance from each word to its head."""

    def graph(self, lexicon: Lexicon) -> CaptionGraph:
        """Its graph by the rules that are switched on; places are those in the text without markup."""
        return graph_of(link([Token(*word) for word in self.words], self.heads), lexicon, self.title)


@dataclass(frozen=True)
class Effect:
    """What changes without some rules."""

    graphs: Sequence[int]
    """numbers of the captions whose graphs change."""
    verdicts: Sequence[int]
    """numbers of the captions whose verdicts change."""
    right: int | None
    """captions that are kept or dropped as by their annotations without the rules; None if they have none."""


class RuleBench:
    """Captions parsed once, and their graphs by all rules."""

    def __init__(self, captions: Sequence[str], annotated: Sequence[Verdict] | None) -> None:
        """Parse the captions.

        Args:
            captions: one or more.
            annotated: the right verdict of each, if known.
        """
        parser = FastParser()
        self._lexicon, self._annotated = parser.lexicon, annotated
        read = [prepared(caption) for caption in captions]
        trees = parser.parse(["" if is_foreign(text) else text for text, _, _ in read])
        self.parsed = [
            ParsedCaption(caption, title, *_copied(tree))
            for caption, (_, title, _), tree in zip(captions, read, trees, strict=True)
        ]
        self.graphs = self._graphs()
        self.right = self._num_right(self.graphs)

    def without(self, off: Iterable[CorrectionRule]) -> tuple[Effect, Sequence[CaptionGraph]]:
        """The effect of switching rules off together, and the graphs without them."""
        with switched_off(off):
            graphs = self._graphs()
        pairs = list(zip(self.graphs, graphs, strict=True))
        return Effect(
            [number for number, (one, two) in enumerate(pairs) if one != two],
            [number for number, (one, two) in enumerate(pairs) if verdict_of(one) != verdict_of(two)],
            self._num_right(graphs),
        ), graphs

    def _graphs(self) -> list[CaptionGraph]:
        return [each.graph(self._lexicon) for each in self.parsed]

    def _num_right(self, graphs: Sequence[CaptionGraph]) -> int | None:
        if self._annotated is None:
            return None
        return sum(all(verdict_of(graph)) == all(right) for graph, right in zip(graphs, self._annotated, strict=True))


@contextmanager
def switched_off(off: Iterable[CorrectionRule]) -> Iterator[None]:
    """Let some rules leave every tree as it is; a rule that returns the tokens returns those that it was given."""
    codes: list[tuple[CorrectionRule, CodeType]] = [(rule, rule.function.__code__) for rule in off]
    try:
        for rule, _ in codes:
            returns_tokens = rule.function.__annotations__["return"] == "list[Token]"
            rule.function.__code__ = (_return_tokens if returns_tokens else _return_nothing).__code__
        yield
    finally:
        for rule, code in codes:
            rule.function.__code__ = code


def _return_tokens(tokens: list[Token], *_: Any) -> list[Token]:
    return tokens


def _return_nothing(*_: Any, **__: Any) -> None:
    return None


def verdict_of(graph: CaptionGraph) -> Verdict:
    """Whether a graph passes C >= 1, and A >= 1."""
    return graph.complexity > 0, graph.num_actions > 0


def _copied(tree: Sequence[Token]) -> tuple[list[tuple[str, str, str, int, int]], list[int]]:
    words = [(token.lower, token.tag, token.dep, token.start, token.end) for token in tree]
    return words, [token.head.i - token.i for token in tree]


def effect_table(bench: RuleBench, found: Sequence[CorrectionRule]) -> Iterator[str]:
    """A line for each rule, those that change most graphs first."""
    effects = sorted(((bench.without([rule])[0], rule) for rule in found), key=lambda pair: -len(pair[0].graphs))
    yield _head(bench)
    yield from (f"{_figures(effect)}  {rule.name}: {rule.words}" for effect, rule in effects)


def joint_effect(bench: RuleBench, off: Sequence[CorrectionRule], file: str | None) -> Iterator[str]:
    """The effect of switching rules off together; writes the captions whose graphs change with both graphs to a
    file.
    """
    effect, graphs = bench.without(off)
    if file is not None:
        changed = [_changed(bench, number, graphs[number], number in effect.verdicts) for number in effect.graphs]
        Path(file).write_text("".join(json.dumps(line) + "\n" for line in changed))
    yield _head(bench)
    yield f"{_figures(effect)}  without {', '.join(rule.name for rule in off)}"


def _changed(bench: RuleBench, number: int, after: CaptionGraph, verdict: bool) -> dict[str, Any]:
    graphs = {"with": describe(bench.graphs[number]), "without": describe(after)}
    return {"caption": bench.parsed[number].caption, "verdict_changed": verdict, **graphs}


def _head(bench: RuleBench) -> str:
    right = "" if bench.right is None else f" (kept or dropped as annotated with all rules: {bench.right})"
    return f"graphs verdicts{'' if bench.right is None else '  right'}  of {len(bench.parsed)} captions{right}"


def _figures(effect: Effect) -> str:
    right = "" if effect.right is None else f" {effect.right:6}"
    return f"{len(effect.graphs):6} {len(effect.verdicts):8}{right}"
