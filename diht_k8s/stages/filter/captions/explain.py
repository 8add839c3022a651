"""Explanation of a caption's graph: each correction rule that changed its tree, in words, with the tree before and
after.

A rule is a function of this package whose description begins with "Correct". Python's profiling hook watches their
calls, so the rules themselves carry no trace of this and run at full speed elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from inspect import getdoc, isfunction
from pkgutil import iter_modules
from types import FrameType
from typing import Any, Final

from diht_k8s.stages.filter import captions as package
from diht_k8s.stages.filter.captions.cleaning import is_foreign
from diht_k8s.stages.filter.captions.corrections import correct
from diht_k8s.stages.filter.captions.dependency_parsers import FastParser
from diht_k8s.stages.filter.captions.graph import CaptionGraph
from diht_k8s.stages.filter.captions.lexicon import Lexicon
from diht_k8s.stages.filter.captions.noun_phrases import find_phrases
from diht_k8s.stages.filter.captions.parser import prepared
from diht_k8s.stages.filter.captions.relations import build_graph
from diht_k8s.stages.filter.captions.tree import Token, unlink

RULE: Final = "Correct "
"""How the description of a rule begins."""


@dataclass(frozen=True)
class CorrectionRule:
    """A function that corrects a tree."""

    name: str
    """module and function."""
    words: str
    """What it says that it corrects."""
    function: Any
    """its function, with `__code__`."""


@dataclass(frozen=True)
class TreeWord:
    """A word of a tree."""

    text: str
    tag: str
    dep: str
    head: str
    """the head's text; empty for a root."""

    def __str__(self) -> str:
        return f"{self.text} {self.tag} {self.dep}" + (f" of {self.head}" if self.head else "")


Tree = tuple[TreeWord, ...]


@dataclass(frozen=True)
class CorrectionStep:
    """A change of the tree by a rule."""

    rule: str
    """module and function."""
    words: str
    """What the rule says."""
    before: Tree
    after: Tree

    def changed(self) -> list[tuple[TreeWord, TreeWord]]:
        """The words that are not the same any more."""
        return [(one, two) for one, two in zip(self.before, self.after, strict=True) if one != two]


@dataclass(frozen=True)
class Explanation:
    """The way from the parser's tree to the graph."""

    before: Tree
    after: Tree
    steps: Sequence[CorrectionStep]
    graph: CaptionGraph


@cache
def rules() -> Sequence[CorrectionRule]:
    """All rules, found by their descriptions."""
    found: list[CorrectionRule] = []
    for each in iter_modules(package.__path__):
        module = import_module(f"{package.__name__}.{each.name}")
        for name, member in vars(module).items():
            text = getdoc(member) if isfunction(member) and member.__module__ == module.__name__ else None
            if text is not None and text.startswith(RULE):
                said = " ".join(text.split("\n\nArgs:")[0].split()).removeprefix(RULE)
                found.append(CorrectionRule(f"{each.name}.{name.lstrip('_')}", said, member))
    return found


@cache
def _by_code() -> Mapping[int, CorrectionRule]:
    return {id(rule.function.__code__): rule for rule in rules()}


class _Watch:
    """A profiling hook that gives each change of a tree to the rule that runs; helpers count as their caller."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = list(tokens)
        self._running: list[CorrectionRule] = []
        self.last = tree_of(self._tokens)
        self.steps: list[CorrectionStep] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or (rule := _by_code().get(id(frame.f_code))) is None:
            return
        self.note()
        if event == "call":
            self._running.append(rule)
        else:
            self._running.pop()

    def note(self) -> None:
        """Compare the tree with the last one."""
        now = tree_of(self._tokens)
        if now != self.last:
            rule = self._running[-1] if self._running else None
            name, words = ("", "") if rule is None else (rule.name, rule.words)
            self.steps.append(CorrectionStep(name, words, self.last, now))
            self.last = now


def tree_of(tokens: Sequence[Token]) -> Tree:
    """The words of a linked tree."""
    return tuple(
        TreeWord(token.lower, token.tag, token.dep, "" if token.is_root else token.head.lower) for token in tokens
    )


def explain(captions: Sequence[str]) -> list[Explanation]:
    """The way of each caption; loads the model."""
    parser, found = FastParser(), list[Explanation]()
    for caption in captions:
        text, title, without = prepared(caption)
        (tokens,) = parser.parse(["" if is_foreign(text) else text])
        explanation = _watched(tokens, parser.lexicon, title)
        if without is not None:
            explanation = replace(explanation, graph=explanation.graph.placed(without.span))
        found.append(explanation)
    return found


def _watched(tokens: Sequence[Token], lexicon: Lexicon, title: str) -> Explanation:
    """Build the graph of a caption as `graph_of` does, watching the rules; consumes the tokens."""
    watch, earlier = _Watch(tokens), sys.getprofile()
    before = watch.last
    sys.setprofile(watch)
    try:
        corrected = correct(list(tokens), lexicon, title=title)
    finally:
        sys.setprofile(earlier)
    watch.note()
    graph = build_graph(corrected, find_phrases(corrected, lexicon), lexicon)
    unlink(tokens)
    return Explanation(before, watch.last, watch.steps, graph)


def describe_steps(explanation: Explanation) -> str:
    """For a person: the tree, what each rule did to it, and the tree as the graph was read from it."""
    lines = ["as parsed:", *_lines(explanation.before)]
    for number, step in enumerate(explanation.steps, 1):
        lines.append(f"{number}. {step.words} [{step.rule}]")
        lines += [f"     {one}  ->  {two}" for one, two in step.changed()]
    if not explanation.steps:
        lines.append("no rule fired")
        return "\n".join(lines)
    return "\n".join([*lines, "as corrected:", *_lines(explanation.after)])


def _lines(tree: Tree) -> list[str]:
    return [f"  {word}" for word in tree] or ["  (nothing to parse)"]
