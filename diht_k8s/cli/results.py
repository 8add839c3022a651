"""Results for a person: `diht report`, the evaluations of several runs side by side, and the last lines of `diht
run`.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from diht_k8s.api.base import in_object_store, is_dict
from diht_k8s.api.documents import canonical_json
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION, run_fields, run_sha256
from diht_k8s.api.layout import Layout, join, refuse_old_layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.wording import columns
from diht_k8s.cli.display import show
from diht_k8s.cli.document import is_folder, output_of, read_run
from diht_k8s.cli.local_runs import local_run_folder
from diht_k8s.data.shards.images import thumbnails
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.pipeline.plan import stages_until
from diht_k8s.report.comparison import comparison, comparison_page, comparison_text, configuration, natural_order
from diht_k8s.report.overview import lede
from diht_k8s.report.per_image import per_image_path, read_per_image
from diht_k8s.report.sections import STEP_NAMES
from diht_k8s.runtime.run_folder import latest_run, run_folder, run_layout, runs_of

REPORT: Final = "report.json"
_REPORT_KEYS: Final = frozenset({"schema_version", "config", "run", "funnel", "train", "benchmarks"})
"""Keys of every report of the stage evaluate, and of no other file of a run."""


def report_command(runs: Sequence[str], output: str, *, as_json: bool = False) -> int:
    """Compare the reports of several runs, on stdout and as a page; the exit code."""
    compared = compare(runs, output)
    return show({**compared, "page": output}, [comparison_text(compared), "", output], as_json=as_json)


def compare(runs: Sequence[str], output: str) -> dict[str, Any]:
    """Write the page; what it shows.

    Args:
        runs: run documents, folders of runs, report.json files, or output folders: all runs there. In the order of the
            columns; the others are compared with the first one.
        output: where the page goes.

    Raises:
        UserError: a run has no report, or the file is something else.
        DataError: a report is damaged or of another version.
    """
    storage = Storage()
    places = dict.fromkeys((run, uri) for run in runs for uri in _report_uris(storage, run))
    reports = _once([_read_report(storage, *place) for place in places])
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


def _once(reports: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The reports without those of a training that has one already: a copy of it, or the model that a run without a
    training names, is no other seed.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for folder, report in reports:
        trained = "train" in report["run"].get("stages", ["train"])
        seed = report["run"]["seed"] if trained else None
        decides = [configuration(report), seed, report.get("inputs"), report.get("stage_version")]
        same = found.setdefault(canonical_json(decides), (folder, report))
        if same[1] is not report:
            says = "is named twice" if same[0] == folder else f"is a copy of {same[0]}"
            print(f"diht: {folder} {says}: it counts once", file=sys.stderr)
    return list(found.values())


def _thumbnails(storage: Storage, compared: Mapping[str, Any]) -> dict[str, str]:
    """Images that one side gets right and the other does not; none where the benchmark's shards are not at hand."""
    found: dict[str, str] = {}
    for part in (part for changed in compared["changed"] for part in changed):
        shown = [*part["wins_shown"], *part["losses_shown"]]
        with contextlib.suppress(UserError, DataError):
            wanted = [(Shard(part["name"], each["shard"], part["name"]), each["uid"]) for each in shown]
            found |= thumbnails(storage, wanted)
    return found


def _report_uris(storage: Storage, run: str) -> list[str]:
    """Where the reports lie: of a run, given by its document, its folder, the folder of its results or the report; of
    all evaluated runs of an output, in natural order.
    """
    if (output := output_of(run)) is None:
        return [run]
    if output != run:
        refuse_old_layout(output, storage.names)
        return [join(run_folder(read_run(run)), REPORT)]
    if is_folder(run) and not storage.exists(join(run, "run.json")):  # a run's folder has links
        refuse_old_layout(output, storage.names)
    if not is_folder(run) or latest_run(storage, run) is None:
        return [join(run, REPORT)]
    found = [each for each, _ in runs_of(storage, run.rstrip("/"))]
    found.sort(key=lambda each: natural_order(each.metadata.name, run_fields(each.spec)))
    uris = [join(Layout(run).run(each.metadata.name, run_sha256(each.spec)), REPORT) for each in found]
    return [uri for uri in uris if storage.exists(uri)] or [join(run, REPORT)]


def _read_report(storage: Storage, run: str, uri: str) -> tuple[str, dict[str, Any]]:
    """The folder of a report's results, and the report, which a person named as `run`."""
    if not storage.exists(uri):
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
        return _results(storage, uri.rpartition("/")[0], found), found
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{uri} is damaged ({error!r}): run the stage evaluate again") from error


def _results(storage: Storage, folder: str, report: Mapping[str, Any]) -> str:
    """The folder in which the results of a report lie: another one where the report is a run's own."""
    own = report["run"].get("folder")
    output, found = storage.location(folder), own is not None and storage.location(folder).endswith(f"/{own}")
    return join(output.removesuffix(f"/{own}"), report["run"]["folders"]["evaluate"]) if found else folder


Json = Mapping[str, Any]


def result_lines(run: DihtRun, until: Stage | None, path: str) -> list[str]:
    """The result of a complete run in lines for a person.

    Args:
        run: the run, as this machine changes it.
        until: its last stage; None: all.
        path: the run document, as the user named it.
    """
    output, storage = run.spec.data.output, Storage(run.spec.storage)
    last = stages_until(run.spec, until)[-1]
    if last is Stage.EVALUATE:
        report = _document(storage, join(run_folder(run), "report.json"))
        return [*([] if report is None else [lede(report)]), *_page(run)]
    lines = [f"output: {output}"]
    if last is not Stage.FILTER:
        return lines
    report = _document(storage, run_layout(run, storage).report(Stage.FILTER))
    if report is None or not report.get("funnel"):
        return lines
    return [
        *funnel_lines(report["funnel"]),
        f"why a pair was kept or dropped: diht explain {shlex.quote(path)} [NAME]",
        *lines,
    ]


def funnel_lines(funnel: Sequence[Json]) -> list[str]:
    """Pairs left after each rule, and dropped by it."""
    rows = [("rule", "left", "dropped")]
    rows += [
        (STEP_NAMES.get(row["step"], str(row["step"])), f"{row['samples']:,}", f"{row['dropped']:,}") for row in funnel
    ]
    return columns(rows, right=(1, 2))


def _page(run: DihtRun) -> list[str]:
    """The path of the page, for a person and for a browser."""
    if in_object_store(run.spec.data.output):
        return [f"report: {run_folder(run)}/report.html"]
    page = local_run_folder(run) / "report.html"
    return [f"report: {page}", f"        {page.as_uri()}"]


def _document(storage: Storage, uri: str) -> Json | None:
    """A report; None without one."""
    try:
        return json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None
    except ValueError as error:
        raise UserError(f"{uri} is damaged: remove it, and run again") from error
