"""A run's own page, `OUTPUT/runs/NAME/DIGEST/report.html`, and its `report.json`: what its evaluation says, which it may share
with other runs, and what belongs to the run alone: name, time, folders, document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from markupsafe import escape

from diht_k8s.api.documents import dump
from diht_k8s.api.hashing import run_fields
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.reports import GOODPUT_VARIABLE
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.content import cost_row
from diht_k8s.report.formatting import duration
from diht_k8s.report.page import as_yaml, environment, filled
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.run_folder import run_folder

Json = dict[str, Any]


def write_run_page(run: DihtRun, storage: Storage, layout: Layout) -> None:
    """Write the page and the report of a run whose evaluation is complete.

    The time of the run's stages comes from whoever started the evaluation; where nobody gives it, what an earlier page
    says stays.
    """
    folder = run_folder(run)
    shared = json.loads(storage.read_bytes(layout.report(Stage.EVALUATE)))
    time = time_spent(os.environ.get(GOODPUT_VARIABLE, "")) or _known_time(storage, folder, layout)
    own = cost_row(Stage.EVALUATE, read_committed(storage, layout, Stage.EVALUATE).summary)
    report = run_report(run, shared, layout, time, own)
    page = run_page(storage.read_text(layout.report(Stage.EVALUATE, "html")), report)
    storage.write_bytes(join(folder, "report.json"), json.dumps(report, indent=1, ensure_ascii=False).encode())
    storage.write_bytes(join(folder, "report.html"), page.encode())


def run_report(run: DihtRun, shared: Mapping[str, Any], layout: Layout, time: list[Json], evaluated: Json) -> Json:
    """The evaluation's report with what belongs to the run.

    Args:
        run: the run.
        shared: the evaluation's `report.json`.
        layout: with the folders of the run's stages.
        time: see `time_spent`.
        evaluated: the cost of the evaluation, which its own page is too early to know (see `content.cost_row`).
    """
    folders = {stage.value: layout.relative(stage) for stage in run.spec.stages if stage in layout.folders}
    folder = run_folder(run).removeprefix(join(layout.output, ""))
    own = {"name": run.metadata.name, "folder": folder, "folders": folders, "time": time}
    return {
        **shared,
        "run": {**shared["run"], **own},
        "cost": [*shared["cost"], evaluated],
        "config": redacted_document({"spec": run_fields(run.spec)}),
        "document": json.loads(dump(run)),
    }


def run_page(shared: str, report: Mapping[str, Any]) -> str:
    """The evaluation's page with what belongs to the run."""
    run = report["run"]
    section = environment().get_template("run.html.jinja").render(**run, run_yaml=as_yaml(report["document"]))
    (evaluated,) = (row for row in report["cost"] if row["stage"] == Stage.EVALUATE)
    return filled(
        shared,
        {
            "title": f"<title>{escape(run['name'])}: DiHT run report</title>",
            "heading": f'<p class="eyebrow">DiHT run report</p>\n  <h1>{escape(run["name"])}</h1>',
            "link": '<li><a href="#run">This run</a></li>',
            "evaluated": f", {duration(evaluated['seconds'])}",
            "cost": environment().get_template("cost.html.jinja").render(cost=report["cost"]),
            "run": section,
        },
    )


def time_spent(text: str) -> list[Json]:
    """Wall time of a run's stages by category, from whoever started them; empty where nobody gives it."""
    try:
        rows = json.loads(text)
        return [
            {"stage": str(row["stage"]), "wall_seconds": float(row["wall_seconds"]), "text": str(row["text"])}
            for row in rows
        ]
    except (ValueError, TypeError, KeyError):
        return []


def _known_time(storage: Storage, folder: str, layout: Layout) -> list[Json]:
    """What the run's page says of these results so far."""
    if not storage.exists(uri := join(folder, "report.json")):
        return []
    run = json.loads(storage.read_bytes(uri))["run"]
    return run["time"] if run["folders"]["evaluate"] == layout.relative(Stage.EVALUATE) else []
