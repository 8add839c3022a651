"""`diht report`: the evaluations of several runs side by side, as a table and a page."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.errors import DataError, ExitCode, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.json_types import is_dict
from diht_k8s.api.layout import join
from diht_k8s.api.run import Stage
from diht_k8s.cli.document import output_of
from diht_k8s.cli.stage_folder import is_folder, layout_named
from diht_k8s.recipe.report.comparison import comparison, comparison_page, comparison_text
from diht_k8s.recipe.report.per_image import per_image_path, read_per_image
from diht_k8s.recipe.runtime.run_folder import latest_run, runs_of
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.shards.thumbnails import thumbnails

_REPORT_KEYS: Final = frozenset({"schema_version", "config", "run", "funnel", "train", "benchmarks"})
"""Keys of every report of the stage evaluate, and of no other file of a run."""


def report_command(runs: Sequence[str], output: str, *, as_json: bool = False) -> int:
    """Compare the reports of several runs, on stdout and as a page; the exit code."""
    compared = compare(runs, output)
    print(json.dumps({**compared, "page": output}) if as_json else f"{comparison_text(compared)}\n\n{output}")
    return ExitCode.DONE


def compare(runs: Sequence[str], output: str) -> dict[str, Any]:
    """Write the page; what it shows.

    Args:
        runs: run documents, folders of runs, report.json files, or output folders: all runs there.
        output: where the page goes.

    Raises:
        UserError: a run has no report, or the file is something else.
        DataError: a report is damaged or of another version.
    """
    storage = Storage()
    reports = [_read_report(storage, place) for run in runs for place in _variants(storage, run)]
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
    found: dict[str, str] = {}
    for part in (part for changed in compared["changed"] for part in changed):
        shown = [*part["wins_shown"], *part["losses_shown"]]
        with contextlib.suppress(UserError, DataError):
            wanted = [(Shard(part["name"], each["shard"], part["name"]), each["uid"]) for each in shown]
            found |= thumbnails(storage, wanted)
    return found


def _variants(storage: Storage, run: str) -> list[str]:
    """The reports of all runs of an output; anything else as it is."""
    if not is_folder(run) or latest_run(storage, run) is None:
        return [run]
    layouts = [layout for _, layout in runs_of(storage, run.rstrip("/")) if Stage.EVALUATE in layout.folders]
    found = dict.fromkeys(layout.report(Stage.EVALUATE) for layout in layouts)
    return [uri for uri in found if storage.exists(uri)] or [run]


def _report_uri(storage: Storage, run: str) -> str | None:
    """Where the report of a run lies, given by its document, an output, its folder, the stage's folder or the report."""
    if output_of(run) is None:
        return run
    if output_of(run) == run:
        if not is_folder(run):
            return None
        if storage.exists(uri := join(run, "report.json")):
            return uri
    _, layout = layout_named(run)
    return layout.report(Stage.EVALUATE) if Stage.EVALUATE in layout.folders else None


def _read_report(storage: Storage, run: str) -> tuple[str, dict[str, Any]]:
    """The folder of a report, and the report."""
    uri = _report_uri(storage, run)
    if uri is None or not storage.exists(uri):
        raise UserError(f"{run} has no report of the stage evaluate: run that stage first, or name a report.json")
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
