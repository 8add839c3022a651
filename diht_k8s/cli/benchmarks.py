"""`diht benchmarks`: the benchmarks of a catalogue, and those that lie below a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.catalogue import LISTS, Catalogue, catalogue
from diht_k8s.stages.evaluate.catalogue.discovery import (
    FoundBenchmark,
    benchmark_of,
    candidate_folders,
    find_benchmark,
    find_unlisted,
)


def benchmarks_command(
    name: str, root: str | None, only: Sequence[str], *, as_yaml: bool, as_json: bool = False
) -> int:
    """Print a catalogue, as a table, as JSON or as a part of a run document; the exit code."""
    if as_json and not as_yaml:
        print(json.dumps(benchmark_json(name, root, only)))
        return ExitCode.DONE
    text = benchmark_yaml(name, root, only) if as_yaml else benchmark_list(name, root, only) + "\n"
    print(text, end="")
    return ExitCode.DONE


def benchmark_list(name: str, root: str | None, only: Sequence[str] = ()) -> str:
    """A catalogue as a table.

    Args:
        name: of the catalogue.
        root: where the shards are searched; None searches nowhere.
        only: names of entries; empty takes all.

    Raises:
        UserError: there is no such catalogue or entry (the nearest name is given), or the root is not a folder.
    """
    below = _below(root)
    listed = _chosen(name, only, below)
    found = _found(listed, root, below)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "type", "metric", "guessing", "images", "verified", "licence", *(["here"] if root else [])):
        numbers = column in ("guessing", "images")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for entry in listed.benchmarks:
        guessing = "" if entry.guessing is None else f"{100 * entry.guessing:.2f} %"
        images = "" if entry.images is None else f"{entry.images:,}"
        row = [entry.name, entry.type, entry.metric, guessing, images, "yes" if entry.verified else "no", entry.licence]
        table.add_row(*row, *([_state(found[entry.name])] if root else []))
    console = Console(width=150, no_color=True)
    with console.capture() as text:
        console.print(table)
    extra = [] if root is None or only else _others(root, listed, below)
    return "\n".join([text.get().rstrip(), "", *_sums(listed, found if root else None), *extra])


def benchmark_json(name: str, root: str | None, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The entries of a catalogue, each with what lies below the root as `here`; arguments and errors as above."""
    below = _below(root)
    listed = _chosen(name, only, below)
    found = _found(listed, root, below)
    return [
        {**entry.model_dump(mode="json"), **({"here": _state(found[entry.name])} if root else {})}
        for entry in listed.benchmarks
    ]


def benchmark_yaml(name: str, root: str | None, only: Sequence[str] = ()) -> str:
    """The complete benchmarks below the root, as `spec.evaluate.benchmarks`.

    Raises:
        UserError: no root is given, or nothing usable lies below it.
    """
    if root is None:
        raise UserError("--yaml needs a ROOT: name the folder that holds the benchmarks")
    storage, below = Storage(), _below(root)
    listed = _chosen(name, only, below)
    whole = [found for found in _found(listed, root, below).values() if found.whole]
    if not whole:
        raise UserError(f"{root} holds no complete benchmark of {name}: `diht benchmarks {root}` says what is missing")
    parts = [
        benchmark_of(found, storage).model_dump(by_alias=True, exclude_defaults=True, mode="json") for found in whole
    ]
    return yaml.safe_dump({"evaluate": {"benchmarks": parts}}, sort_keys=False, allow_unicode=True, width=120)


@dataclass(frozen=True)
class _Below:
    """Folders below a root that can be benchmarks, and the benchmarks there that are in no list, by name."""

    folders: frozenset[str] = frozenset()
    unlisted: Mapping[str, FoundBenchmark] = field(default_factory=dict)


def _below(root: str | None) -> _Below:
    """The benchmarks below a root; none without one.

    Raises:
        UserError: the root is not a folder.
    """
    if root is None:
        return _Below()
    storage = Storage()
    path = storage.local_path(root)
    if path is not None and not path.is_dir():
        raise UserError(f"{root} is not a folder: name the folder that holds the benchmarks")
    folders = candidate_folders(root, storage)
    known = {entry.name for name in LISTS for entry in catalogue(name).benchmarks}
    found = find_unlisted(root, storage, folders, known)
    return _Below(frozenset(folders), {each.entry.name: each for each in found})


def _chosen(name: str, only: Sequence[str], below: _Below) -> Catalogue:
    """A list, or the chosen entries of it and of what else lies below the root."""
    listed = catalogue(name)
    if not only:
        return listed
    by_folder = {each.entry.title: each.entry for each in below.unlisted.values()}
    unlisted = {**{key: each.entry for key, each in below.unlisted.items()}, **by_folder}
    return listed.model_copy(
        update={"benchmarks": [unlisted[each] if each in unlisted else listed.entry(each) for each in only]}
    )


def _found(listed: Catalogue, root: str | None, below: _Below) -> dict[str, FoundBenchmark]:
    storage = Storage()
    if root is None:
        return {}
    return {
        entry.name: below.unlisted.get(entry.name) or find_benchmark(entry, root, storage, below.folders)
        for entry in listed.benchmarks
    }


def _others(root: str, listed: Catalogue, below: _Below) -> list[str]:
    """Benchmarks below the root that are not in the list: sets of other lists, and sets of none."""
    storage, names = Storage(), {entry.name for entry in listed.benchmarks}
    elsewhere = {entry.name: (name, entry) for name in LISTS for entry in catalogue(name).benchmarks}
    lines: list[str] = []
    for name, entry in (found for key, found in elsewhere.items() if key not in names):
        found = find_benchmark(entry, root, storage, below.folders)
        if found.folder is not None:
            lines.append(f"Also here: {entry.name}, {entry.type}, {_state(found)} (see --list {name}).")
    for each in below.unlisted.values():
        problem = "" if each.problem is None else f": {each.problem}"
        lines.append(f"Also here, in no list: {each.entry.title}, {each.entry.type}, {_state(each)}{problem}.")
    return lines


def _state(found: FoundBenchmark) -> str:
    if found.folder is None:
        return "no"
    return f"{found.shards} shards" if found.problem is None else "not whole"


def _sums(listed: Catalogue, found: dict[str, FoundBenchmark] | None) -> list[str]:
    tasks = sum(entry.tasks for entry in listed.benchmarks)
    unverified = sum(entry.tasks for entry in listed.benchmarks if not entry.verified)
    foreign = [entry.name for entry in listed.benchmarks if not entry.computed]
    lines = [f"{listed.title}: {tasks} tasks."]
    if unverified:
        lines.append(
            f"{unverified} of them are from memory, not verified: no average over {listed.tasks} tasks is printed."
        )
    if foreign:
        lines.append(f"The metric of {', '.join(foreign)} is not computed here.")
    if found is not None:
        lines += [f"{name}: {item.problem}" for name, item in found.items() if item.problem is not None]
        present = sum(item.whole for item in found.values())
        lines.append(f"{present} of {len(found)} sets are complete below this root.")
    return lines
