"""Commands around the stage evaluate: `diht benchmarks`, `diht convert` and `diht report`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from diht_k8s.api.errors import DataError, ExitCode, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.json_types import is_dict
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.cli.document import output_of
from diht_k8s.recipe.evaluate.catalogue import LISTS, Catalogue, catalogue
from diht_k8s.recipe.evaluate.catalogue.discovery import (
    FoundBenchmark,
    benchmark_of,
    candidate_folders,
    find_benchmark,
    find_unlisted,
)
from diht_k8s.recipe.shards.storage import Storage

_REPORT_KEYS: Final = frozenset({"schema_version", "config", "run", "funnel", "train", "benchmarks"})
"""What every report of the stage evaluate has, and no other file of a run."""


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


def convert_command(source: str, target: str, architecture: str | None, *, as_json: bool = False) -> int:
    """Write a model in another layout and print the files; the exit code."""
    from diht_k8s.recipe.clip_models.convert import convert

    written = convert(source, target, Storage(), architecture=architecture)
    print(json.dumps([*written]) if as_json else "\n".join(written))
    return ExitCode.DONE


def report_command(runs: Sequence[str], output: str, *, as_json: bool = False) -> int:
    """Compare the reports of several runs, on stdout and as a page; the exit code."""
    from diht_k8s.recipe.report.comparison import comparison_text

    compared = compare(runs, output)
    print(json.dumps({**compared, "page": output}) if as_json else f"{comparison_text(compared)}\n\n{output}")
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
    """What lies below a root: folders that can be benchmarks, and the benchmarks that are in no list, by name."""

    folders: frozenset[str] = frozenset()
    unlisted: Mapping[str, FoundBenchmark] = field(default_factory=dict)


def _below(root: str | None) -> _Below:
    """What lies below a root, nothing without one.

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
    """What lies below the root beside the list: sets of other lists, and sets of none."""
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


def compare(runs: Sequence[str], output: str) -> dict[str, Any]:
    """Write the page; what it shows.

    Args:
        runs: run documents, output folders, or report.json files.
        output: where the page goes.

    Raises:
        UserError: a run has no report, or the file is something else.
        DataError: a report is damaged or of another version.
    """
    from diht_k8s.recipe.report.comparison import comparison, comparison_page
    from diht_k8s.recipe.report.per_image import per_image_path, read_per_image

    storage = Storage()
    reports = [_read_report(storage, run) for run in runs]
    per_image = [
        {
            result["name"]: found
            for number, result in enumerate(report["benchmarks"])
            if (found := read_per_image(storage, join(folder, per_image_path(number)))) is not None
        }
        for folder, report in reports
    ]
    compared = comparison([report for _, report in reports], per_image)
    storage.write_bytes(output, comparison_page(compared, _thumbnails(storage, compared)).encode())
    return compared


def _thumbnails(storage: Storage, compared: Mapping[str, Any]) -> dict[str, str]:
    """Images that one side gets right and the other does not; none where the benchmark's shards are not at hand."""
    from diht_k8s.recipe.shards.sources import Shard
    from diht_k8s.recipe.shards.thumbnails import thumbnails

    found: dict[str, str] = {}
    for part in (part for changed in compared["changed"] for part in changed):
        shown = [*part["wins_shown"], *part["losses_shown"]]
        with contextlib.suppress(UserError, DataError):
            wanted = [(Shard(part["name"], each["shard"], part["name"]), each["uid"]) for each in shown]
            found |= thumbnails(storage, wanted)
    return found


def _read_report(storage: Storage, run: str) -> tuple[str, dict[str, Any]]:
    """The folder of a report, and the report."""
    from diht_k8s.recipe.report.comparison import comparison

    output = output_of(run)
    places = [run] if output is None else [Layout(output).report(Stage.EVALUATE), join(output, "report.json")]
    uri = next((place for place in places if storage.exists(place)), None)
    if uri is None:
        raise UserError(
            f"{output or run} has no evaluate/report.json: run the stage evaluate first, or name a report.json"
        )
    try:
        found = json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{uri} is damaged ({error}): run the stage evaluate again") from error
    version = found.get("schema_version", SCHEMA_VERSION) if is_dict(found) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{uri} is of version {version}, this program reads {SCHEMA_VERSION}: run the stage evaluate again"
        )
    if not is_dict(found) or not _REPORT_KEYS.issubset(found):
        raise UserError(f"{uri} is not a report of the stage evaluate: give a run's output folder, or its report.json")
    try:
        comparison([found])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{uri} is damaged ({error!r}): run the stage evaluate again") from error
    return uri.rpartition("/")[0], found
