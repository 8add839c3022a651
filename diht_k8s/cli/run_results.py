"""The last lines of `diht run`: what came out, and where it lies."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.api.object_stores import in_object_store
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.local_runs import local_run_folder
from diht_k8s.data.shards.storage import Storage
from diht_k8s.pipeline.plan import stages_until
from diht_k8s.report.overview import lede
from diht_k8s.report.sections import STEP_NAMES
from diht_k8s.runtime.run_folder import run_folder, run_layout

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
    rows += [(STEP_NAMES.get(row["step"], row["step"]), f"{row['samples']:,}", f"{row['dropped']:,}") for row in funnel]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"{name:<{widths[0]}}  {left:>{widths[1]}}  {gone:>{widths[2]}}" for name, left, gone in rows]


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
