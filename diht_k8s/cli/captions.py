"""`diht parse` and `concepts`: captions as the CAT filter sees them, and the concepts that a run made of its
captions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.base import in_object_store
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Stage
from diht_k8s.cli.display import show
from diht_k8s.stages.label.vocabulary import ConceptVocabulary

if TYPE_CHECKING:
    from diht_k8s.stages.filter import CaptionGraph
    from diht_k8s.stages.filter.captions.explain import Explanation, Tree


def parse_command(captions: Sequence[str], *, as_json: bool = False, why: bool = False) -> int:
    """Print the graph of each caption, with `why` also the corrections; the exit code."""
    if why:
        return _parse_and_explain(captions, as_json=as_json)
    from diht_k8s.stages.filter import CaptionParser, describe  # spaCy, without which `concepts` reads a vocabulary

    graphs = CaptionParser().parse(list(captions))
    found = [_graph(caption, graph) for caption, graph in zip(captions, graphs, strict=True)]
    return show(found, ["\n\n".join(map(describe, graphs))], as_json=as_json)


def _parse_and_explain(captions: Sequence[str], *, as_json: bool) -> int:
    from diht_k8s.stages.filter import describe
    from diht_k8s.stages.filter.captions.explain import describe_steps, explain

    found = explain(captions)
    values = [_graph(c, each.graph) | {"why": _why(each)} for c, each in zip(captions, found, strict=True)]
    texts = (f"{describe_steps(each)}\n\n{describe(each.graph)}" for each in found)
    return show(values, ["\n\n".join(texts)], as_json=as_json)


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


SHOWN: Final = 20
SHOWN_CUT: Final = 8
WIDTH: Final = 110


def concepts_command(path: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the vocabulary of a run, or of a `vocabulary.json`; the exit code."""
    document = _vocabulary_document(path, overrides)
    vocabulary = ConceptVocabulary.from_document(document)
    return show(document, [describe_vocabulary(vocabulary)], as_json=as_json)


def describe_vocabulary(vocabulary: ConceptVocabulary) -> str:
    """The text of a vocabulary."""
    parts = [f"{vocabulary.captions:,} captions, vocabulary {vocabulary.sha256[:12]}"]
    for kind, concepts in (("objects", vocabulary.objects), ("attributes", vocabulary.attributes)):
        rows = list(zip(concepts.names, concepts.counts, strict=True))
        cut = vocabulary.cut[kind]
        parts += ["", f"{kind}: {len(rows):,} classes of {cut['distinct']:,} distinct names"]
        parts += _listed("commonest", rows[:SHOWN])
        parts += _listed("rarest kept", rows[-SHOWN:][::-1] if len(rows) > SHOWN else [])
        for reason, why in _reasons(cut["least_count"]).items():
            found = cut.get(reason)  # vocabularies of earlier versions have fewer reasons
            if found and found["distinct"]:
                parts += _listed(f"cut, {why}: {found['distinct']:,}", found["commonest"][:SHOWN_CUT])
    return "\n".join(parts)


def _reasons(least: int) -> dict[str, str]:
    return {
        "stop_list": "says nothing about an image (stop list)",
        "excluded": "left out by the run (exclude)",
        "credits": 'stands after "by": authors and makers',
        "rare": f"in fewer than {least:,} captions (minCount, minFraction)",
        "everywhere": "in too many captions (maxFraction)",
        "over_cap": "beyond the cap (maxObjects, maxAttributes)",
    }


def _listed(title: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """A title and `name count` pairs below it, broken at `WIDTH`."""
    if not rows:
        return []
    lines, line = [f"  {title}"], ""
    for name, count in rows:
        entry = f"{name} {count:,}"
        if line and len(line) + len(entry) + 6 > WIDTH:
            lines.append(f"    {line}")
            line = ""
        line = f"{line}, {entry}" if line else entry
    return [*lines, f"    {line}"]


def _vocabulary_document(path: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    uri, data = _vocabulary_file(path, overrides)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not JSON ({error}): give a vocabulary.json or a run document") from error
    if not isinstance(document, dict):
        raise UserError(f"{uri} is not a vocabulary: give a vocabulary.json or a run document")
    return document


def _vocabulary_file(path: str, overrides: Sequence[str]) -> tuple[str, bytes]:
    """Where the vocabulary lies, and its bytes. A local `vocabulary.json` needs no package of the recipe."""
    is_vocabulary = path.endswith("vocabulary.json")
    if is_vocabulary and not in_object_store(path):
        try:
            return path, Path(path.removeprefix("file://")).expanduser().read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"cannot read {path}: {reason}: check the path") from error
    from diht_k8s.data.shards.storage import Storage

    if is_vocabulary:
        return path, Storage().read_bytes(path)
    from diht_k8s.cli.document import layout_named

    storage, layout = layout_named(path, overrides)
    if Stage.LABEL not in layout.folders or not storage.exists(layout.vocabulary):
        raise UserError(f"{path} has no vocabulary: run the stage label of this run first")
    return layout.vocabulary, storage.read_bytes(layout.vocabulary)
