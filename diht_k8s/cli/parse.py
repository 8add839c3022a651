"""`diht parse`: captions as the CAT filter sees them, and the corrections that made them so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from diht_k8s.api.errors import ExitCode
from diht_k8s.stages.filter import CaptionGraph, CaptionParser, describe
from diht_k8s.stages.filter.captions.explain import Explanation, Tree, describe_steps, explain


def parse_command(captions: Sequence[str], *, as_json: bool = False, why: bool = False) -> int:
    """Print the graph of each caption, with `why` also the corrections; the exit code."""
    if why:
        return _parse_and_explain(captions, as_json=as_json)
    if as_json:
        graphs = CaptionParser().parse(list(captions))
        print(json.dumps([_graph(caption, graph) for caption, graph in zip(captions, graphs, strict=True)]))
        return ExitCode.DONE
    print("\n\n".join(describe(graph) for graph in CaptionParser().parse(list(captions))))
    return ExitCode.DONE


def _parse_and_explain(captions: Sequence[str], *, as_json: bool) -> int:
    found = explain(captions)
    if as_json:
        print(
            json.dumps([_graph(c, each.graph) | {"why": _why(each)} for c, each in zip(captions, found, strict=True)])
        )
    else:
        print("\n\n".join(f"{describe_steps(each)}\n\n{describe(each.graph)}" for each in found))
    return ExitCode.DONE


def _why(explanation: Explanation) -> dict[str, Any]:
    steps = [
        {"rule": step.rule, "words": step.words, "before": _tree(step.before), "after": _tree(step.after)}
        for step in explanation.steps
    ]
    return {"before": _tree(explanation.before), "after": _tree(explanation.after), "steps": steps}


def _tree(tree: Tree) -> list[dict[str, str]]:
    return [asdict(word) for word in tree]


def _graph(caption: str, graph: CaptionGraph) -> dict[str, Any]:
    """A graph with names in place of numbers."""
    names = [*graph.names]
    return {
        "caption": caption,
        "objects": names,
        "attributes": [{"object": names[index], "attribute": name} for index, name in graph.attributes],
        "relations": [
            {
                "subject": None if each.subject is None else names[each.subject],
                "predicate": each.predicate,
                "object": None if each.object is None else names[each.object],
            }
            for each in graph.relations
        ],
        "actions": [action.name for action in graph.actions],
        "complexity": graph.complexity,
    }
