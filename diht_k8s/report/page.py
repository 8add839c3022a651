"""`report.html` from the report's content: one file that loads nothing. Captions and names are escaped.

The page has no script, and its Content Security Policy allows none, so that nothing in a stranger's caption can run.
Places in it are marked for what only a run knows: `filled` puts that in for the run's own page,
`OUTPUT/runs/NAME/DIGEST/report.html`. Beside it lies the run's `report.json`: what its evaluation says, which it may
share with other runs, and its name, time, folders, document.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import escape

from diht_k8s.api.documents import dump
from diht_k8s.api.hashing import run_fields
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.reports import GOODPUT_VARIABLE
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report import sections
from diht_k8s.report.cards import data_card, model_card
from diht_k8s.report.caveats import MANY, benchmark_caveats, label_caveats, page_caveats
from diht_k8s.report.content import cost_row
from diht_k8s.report.overview import (
    SPLITS,
    TYPE_NAMES,
    count,
    decimal,
    duration,
    explained_reference,
    lede,
    model_title,
    overview,
    percent,
    published,
)
from diht_k8s.runtime.commit import read_committed
from diht_k8s.runtime.run_folder import run_folder

MAX_BYTES: Final = 5 << 20
_PLACE: Final = re.compile(r"<!--(\w+)-->.*?<!--/\1-->", re.DOTALL)
"""All other text of the page is escaped, so none looks like this."""


def render(content: dict[str, Any]) -> str:
    """The page, at most `MAX_BYTES`: if it would be larger, benchmarks lose their images, the last one first.

    Args:
        content: see `report.content.report_content`, with images.
    """
    template = environment().get_template("page.html.jinja")
    kept = len(content["benchmarks"])
    while len((page := template.render(**_values(content, kept))).encode()) > MAX_BYTES and kept:
        kept -= 1
    assert len(page.encode()) <= MAX_BYTES, "only figures and a few images are left"
    return page


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with the places of these names filled by HTML."""
    return _PLACE.sub(lambda found: parts.get(found[1], found[0]), page)


@cache
def environment() -> Environment:
    """The templates, with autoescaping of all text; each is compiled once in a process."""
    templates = Environment(
        loader=PackageLoader("diht_k8s.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "percent": percent,
        "count": count,
        "duration": duration,
        "decimal": decimal,
    }
    return templates


def as_yaml(document: Mapping[str, Any]) -> str:
    """A document as a person writes it."""
    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100)


def _values(content: dict[str, Any], illustrated: int) -> dict[str, Any]:
    """Variables of the templates; benchmarks from number `illustrated` on have no images."""
    results = [
        item if number < illustrated or "thumbnails" not in item else {**item, "thumbnails": {}}
        for number, item in enumerate(content["benchmarks"])
    ]
    return {
        "content": content,
        "title": model_title(content),
        "lede": lede(content),
        "reference": explained_reference(content),
        "notes": page_caveats(content),
        "folded": len(results) > MANY,
        "queries": sections.queries(content, results),
        "cards": sections.cards(content),
        "steps": sections.steps(content),
        "learned_from": sections.learned_from(content),
        "funnel": sections.funnel(content),
        "filter_rules": sections.filter_rules(content),
        "dropped": sections.dropped(content),
        "junk": sections.junk(content),
        "damaged": sections.damaged_shards(content),
        "kept": sections.kept_examples(content),
        "charts": sections.training_charts(content),
        "shown_charts": sections.SHOWN_CHARTS,
        "training_table": sections.training_table(content),
        "overview": overview(content),
        "published": published(content),
        "type_names": TYPE_NAMES,
        "splits": SPLITS,
        "label_notes": label_caveats(content["label"].get("report", {})),
        "benchmarks": [
            {**sections.benchmark(item), "notes": [] if "error" in item else benchmark_caveats(item)}
            for item in results
        ],
        "data_card": data_card(content),
        "model_card": model_card(content),
        "config_yaml": as_yaml(content["config"]),
    }


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
