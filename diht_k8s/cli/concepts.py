"""`diht concepts FILE`: the classes of a vocabulary for people: the commonest, the rarest kept, what was cut and why.

In: a `vocabulary.json`, or a run document, whose committed or half-done stage label has one. Out: text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.cli.reading import read_run
from diht_k8s.recipe.runtime.stage import exit_code_of

SHOWN: Final = 20
SHOWN_CUT: Final = 8
WIDTH: Final = 110


def concepts_command(path: str, overrides: Sequence[str]) -> int:
    """Print the vocabulary; the exit code."""
    lines: list[str] = []

    def work() -> None:
        from diht_k8s.recipe.label.vocabulary import Vocabulary

        lines.append(describe(Vocabulary.from_document(_document(path, overrides))))

    code = exit_code_of(work)
    print(*lines, sep="\n", end="\n" if lines else "")  # out here: a closed pipe is no unexpected error
    return code


def describe(vocabulary: Any) -> str:
    """The text of a vocabulary (`recipe.concepts.vocabulary.Vocabulary`)."""
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


def _document(path: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    from diht_k8s.recipe.shards.storage import Storage

    if path.endswith("vocabulary.json"):
        storage, uri = Storage(), path
    else:
        run = read_run(path, overrides, {})
        storage, uri = Storage(run.spec.storage), Layout(run.spec.data.output).vocabulary
        if not storage.exists(uri):
            raise UserError(f"{uri} does not exist: run the stage label of this run first")
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise UserError(f"{uri} is no JSON ({error}): give a vocabulary.json or a run document") from error
