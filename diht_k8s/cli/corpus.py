"""Commands on a corpus: `diht parse` reads captions, `diht concepts` shows a vocabulary, `diht index` counts samples,
`diht purge` takes pairs out.

What a command needs of the recipe is imported when it runs: `diht purge` needs no parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.cli.document import read_run
from diht_k8s.recipe.runtime.signals import StopFlag

if TYPE_CHECKING:
    from diht_k8s.recipe.filter import CaptionGraph
    from diht_k8s.recipe.filter.captions.explain import Explanation, Tree
    from diht_k8s.recipe.label.vocabulary import ConceptVocabulary
    from diht_k8s.recipe.shards.storage import Storage
    from diht_k8s.recipe.takedown import PurgeResult

SHOWN: Final = 20
SHOWN_CUT: Final = 8
SHOWN_UNMATCHED: Final = 10
WIDTH: Final = 110


def parse_command(captions: Sequence[str], *, as_json: bool = False, why: bool = False) -> int:
    """Print the graph of each caption, and why it is so; the exit code."""
    if why:
        return _parse_and_explain(captions, as_json=as_json)
    from diht_k8s.recipe.filter import CaptionParser, describe

    if as_json:
        graphs = CaptionParser().parse(list(captions))
        print(json.dumps([_graph(caption, graph) for caption, graph in zip(captions, graphs, strict=True)]))
        return ExitCode.DONE
    print("\n\n".join(describe(graph) for graph in CaptionParser().parse(list(captions))))
    return ExitCode.DONE


def _parse_and_explain(captions: Sequence[str], *, as_json: bool) -> int:
    from diht_k8s.recipe.filter import describe
    from diht_k8s.recipe.filter.captions.explain import describe_steps, explain

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


def concepts_command(path: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the vocabulary of a run, or of a `vocabulary.json`; the exit code."""
    from diht_k8s.recipe.label.vocabulary import ConceptVocabulary

    document = _vocabulary_document(path, overrides)
    vocabulary = ConceptVocabulary.from_document(document)
    print(json.dumps(document) if as_json else describe_vocabulary(vocabulary))
    return ExitCode.DONE


def purge_command(path: str, exclude: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Take the listed pairs out of a run's output and say what was done; the exit code."""
    stop = StopFlag().install()
    from diht_k8s.recipe.shards.storage import Storage
    from diht_k8s.recipe.takedown import purge

    run = read_run(path, overrides, {})
    done = purge(run, Storage(run.spec.storage), exclude, stop)
    if as_json:
        print(json.dumps(asdict(done)))
        return ExitCode.DONE
    filters_out = run.spec.filter is not None and run.spec.filter.exclude is not None
    listed = run.spec.filter is not None and run.spec.filter.output == "KeepList"
    print(*describe_purge(done, path, exclude, filters_out=filters_out, listed=listed), sep="\n")
    return ExitCode.DONE


def index_command(
    path: str, overrides: Sequence[str], worker: int | None, workers: int | None, *, as_json: bool = False
) -> int:
    """Index the shards of a run with the other workers and say what was done; the exit code."""
    stop = StopFlag().install()
    from diht_k8s.cli.stage import place_of
    from diht_k8s.recipe.runtime.indexing import make_index
    from diht_k8s.recipe.shards.storage import Storage

    run, (index, number) = read_run(path, overrides, {}), place_of(worker, workers)
    done = make_index(run, Storage(run.spec.storage), worker=index, workers=number, stop=stop)
    if as_json:
        print(json.dumps(asdict(done)))
        return ExitCode.DONE
    damaged = f", {done.damaged} of them damaged" if done.damaged else ""
    print(f"indexed shards: {done.shards}{damaged}, with {done.samples} samples; read here: {done.read}")
    return ExitCode.DONE


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
    if is_vocabulary and not path.startswith("s3://"):
        try:
            return path, Path(path.removeprefix("file://")).expanduser().read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"cannot read {path}: {reason}: check the path") from error
    from diht_k8s.recipe.shards.storage import Storage

    if is_vocabulary:
        return path, Storage().read_bytes(path)
    storage, folder = _output(path, overrides)
    uri = Layout(folder).vocabulary
    if not storage.exists(uri):
        raise UserError(f"{uri} does not exist: run the stage label of this run first")
    return uri, storage.read_bytes(uri)


def _output(path: str, overrides: Sequence[str]) -> tuple[Storage, str]:
    """The output folder of a run, named itself or by its document, and the storage that reaches it."""
    from diht_k8s.recipe.shards.storage import Storage

    if Path(path.removeprefix("file://")).expanduser().is_dir() or path.startswith("s3://"):
        return Storage(), path
    run = read_run(path, overrides, {})
    return Storage(run.spec.storage), run.spec.data.output


def describe_purge(done: PurgeResult, path: str, exclude: str, *, filters_out: bool, listed: bool = False) -> list[str]:
    """What a purge did, as lines for a person.

    Args:
        done: what it did.
        path: the run document.
        exclude: the list.
        filters_out: whether the document names an exclude list.
        listed: whether kept pairs are listed and not copied.
    """
    if not done.shards:
        return ["nothing to remove: no pair of the list is in the run's output", *_unmatched(done)]
    kept = "keep lists" if listed else "kept shards"
    what = f"{kept} and labels" if done.labels else kept
    lines = [f"removed {done.pairs} pairs from {what}; {done.shards} shards were rewritten"]
    if listed and done.pairs:
        lines.append(
            "the raw shards still hold them, and this run reads the raw shards: remove them there last, then run the filter again"
        )
    if done.dropped:
        lines.append(
            f"{done.dropped} pairs that the filter had dropped lost their words and spotted texts in the scores"
        )
    if not filters_out:
        lines.append(f"to keep them out when the filter runs again: add exclude: {exclude} to spec.filter")
    if done.trained:
        lines.append(
            f"a model was trained on them: diht run {path} --replace trains and evaluates again; exported models, "
            "checkpoints and the evaluation's report with its thumbnails stay until then"
        )
    return [*lines, *_unmatched(done)]


def _unmatched(done: PurgeResult) -> list[str]:
    """Entries of the list that name no pair."""
    if not done.unmatched:
        return []
    more = len(done.unmatched) - SHOWN_UNMATCHED
    names = ", ".join(done.unmatched[:SHOWN_UNMATCHED]) + (f" and {more} more" if more > 0 else "")
    return [f"{len(done.unmatched)} entries match nothing (a digest finds kept pairs only): {names}"]
