"""`diht benchmarks`: a catalogue as a table, or what of it lies below a folder as a part of a run document."""

from __future__ import annotations

from collections.abc import Sequence

import yaml
from rich.console import Console
from rich.table import Table

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.evaluate.catalogue import Catalogue, Presence, benchmark_of, catalogue, presence
from diht_k8s.recipe.shards.storage import Storage


def benchmark_list(name: str, root: str | None, only: Sequence[str] = ()) -> str:
    """The table.

    Args:
        name: of the catalogue.
        root: where to look for shards; None looks nowhere.
        only: names of entries; empty takes all.

    Raises:
        UserError: there is no such catalogue or entry (the nearest name is given).
    """
    listed = _chosen(name, only)
    found = _found(listed, root)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "type", "metric", "guessing", "verified", "licence", *(["here"] if root else [])):
        table.add_column(column, justify="right" if column == "guessing" else "left", overflow="fold")
    for entry in listed.benchmarks:
        guessing = "" if entry.guessing is None else f"{100 * entry.guessing:.2f} %"
        row = [entry.name, entry.type, entry.metric, guessing, "yes" if entry.verified else "no", entry.licence]
        table.add_row(*row, *([_state(found[entry.name])] if root else []))
    console = Console(width=140, no_color=True)
    with console.capture() as text:
        console.print(table)
    return "\n".join([text.get().rstrip(), "", *_sums(listed, found if root else None)])


def benchmark_yaml(name: str, root: str | None, only: Sequence[str] = ()) -> str:
    """What is whole below the root, as `spec.evaluate.benchmarks`.

    Raises:
        UserError: no root is given, or nothing usable lies below it.
    """
    if root is None:
        raise UserError("--yaml needs a ROOT: say where the benchmarks lie")
    storage, listed = Storage(), _chosen(name, only)
    whole = [found for found in _found(listed, root).values() if found.whole]
    if not whole:
        raise UserError(f"{root} holds no benchmark of {name} in full: `diht benchmarks {root}` says what is missing")
    parts = [
        benchmark_of(found, storage).model_dump(by_alias=True, exclude_defaults=True, mode="json") for found in whole
    ]
    return yaml.safe_dump({"evaluate": {"benchmarks": parts}}, sort_keys=False, allow_unicode=True, width=120)


def _chosen(name: str, only: Sequence[str]) -> Catalogue:
    listed = catalogue(name)
    return listed.model_copy(update={"benchmarks": [listed.entry(entry) for entry in only]}) if only else listed


def _found(listed: Catalogue, root: str | None) -> dict[str, Presence]:
    storage = Storage()
    return {} if root is None else {entry.name: presence(entry, root, storage) for entry in listed.benchmarks}


def _state(found: Presence) -> str:
    if found.folder is None:
        return "no"
    return f"{found.shards} shards" if found.problem is None else "not whole"


def _sums(listed: Catalogue, found: dict[str, Presence] | None) -> list[str]:
    tasks = sum(entry.tasks for entry in listed.benchmarks)
    unverified = sum(entry.tasks for entry in listed.benchmarks if not entry.verified)
    foreign = [entry.name for entry in listed.benchmarks if not entry.computed]
    lines = [f"{listed.title}: {tasks} tasks."]
    if unverified:
        lines.append(
            f"{unverified} of them are recollection, not verified: no average over {listed.tasks} tasks is printed."
        )
    if foreign:
        lines.append(f"The metric of {', '.join(foreign)} is not computed here.")
    if found is not None:
        lines += [f"{name}: {item.problem}" for name, item in found.items() if item.problem is not None]
        present = sum(item.whole for item in found.values())
        lines.append(f"{present} of {len(found)} sets are whole at this root.")
    return lines
