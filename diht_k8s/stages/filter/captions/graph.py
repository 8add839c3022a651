"""The semantic graph of a caption: objects, attributes and relations, with the counts that the CAT rules use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple


class Mention(NamedTuple):
    """An object as the caption mentions it."""

    name: str
    """lower-case lemma; a compound is one object (`pizza box`)."""
    start: int
    """first character of the mention in the caption."""
    end: int
    """character after the last one of the mention."""


class Attribute(NamedTuple):
    """A property of an object."""

    object: int
    """index into `CaptionGraph.objects`."""
    name: str


class Relation(NamedTuple):
    """A subject-predicate-object triple; subject or object is None if the caption does not name it."""

    subject: int | None
    """index into `CaptionGraph.objects`."""
    predicate: str
    """verb lemma, verb with preposition (`sit on`) or preposition (`in front of`)."""
    object: int | None


class Action(NamedTuple):
    """A verb that is attached to an object."""

    name: str
    has_subject: bool
    """whether an object of the graph is its subject; else one is its object (the weaker reading)."""


@dataclass(frozen=True)
class CaptionGraph:
    """The semantic graph of one caption."""

    objects: tuple[Mention, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    relations: tuple[Relation, ...] = ()
    actions: tuple[Action, ...] = ()

    def placed(self, span: Callable[[int, int], tuple[int, int]]) -> CaptionGraph:
        """The same graph with its mentions at other places, given a function of their start and end."""
        return replace(self, objects=tuple(Mention(name, *span(start, end)) for name, start, end in self.objects))

    @cached_property
    def complexity(self) -> int:
        """C: the largest number of attributes and relations of one object; 0 without objects.

        Each distinct triple counts once for each of its objects: "a cat chases a bird" with two adjectives on the bird
        has complexity 3 (DiHT section 3.1 as we recall it: the relations attached to an object, including attributes).
        """
        degrees = Counter(index for index, _ in self.attributes)
        for relation in set(self.relations):
            degrees.update({end for end in (relation.subject, relation.object) if end is not None})
        return max(degrees.values(), default=0)

    @property
    def num_actions(self) -> int:
        """A: number of verbs with an object of the graph as their subject or object."""
        return len(self.actions)

    @property
    def num_subject_actions(self) -> int:
        """A under the strict reading: number of verbs with a subject."""
        return sum(action.has_subject for action in self.actions)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the objects; a second mention of `dog` is `dog#2`."""
        seen: Counter[str] = Counter()
        names = []
        for mention in self.objects:
            seen[mention.name] += 1
            names.append(mention.name if seen[mention.name] == 1 else f"{mention.name}#{seen[mention.name]}")
        return tuple(names)


def describe(graph: CaptionGraph) -> str:
    """The graph as text: a line per object with its attributes, its relations below, and the two counts at the end."""
    lines = [_described(graph, index) for index in range(len(graph.objects))]
    lines += [f"({_triple(graph, relation)})" for relation in graph.relations if relation.subject is None]
    actions = ", ".join(action.name for action in graph.actions) or "none"
    return "\n".join(
        [*(lines or ["no objects"]), f"complexity {graph.complexity}, actions {graph.num_actions} ({actions})"]
    )


def _described(graph: CaptionGraph, index: int) -> str:
    attributes = ", ".join(attribute.name for attribute in graph.attributes if attribute.object == index)
    head = graph.names[index] + (f" [{attributes}]" if attributes else "")
    edges = [
        f"  -{relation.predicate}-> {_name(graph, relation.object)}"
        for relation in graph.relations
        if relation.subject == index
    ]
    return "\n".join([head, *edges])


def _triple(graph: CaptionGraph, relation: Relation) -> str:
    return f"{_name(graph, relation.subject)} -{relation.predicate}-> {_name(graph, relation.object)}"


def _name(graph: CaptionGraph, index: int | None) -> str:
    return "?" if index is None else graph.names[index]
