"""`report.html` from the report's content: one file that loads nothing. Captions and names are escaped.

Places in it are marked for what only a run knows: `filled` puts that in.
The page has no script, and its Content Security Policy allows none, so that nothing in a stranger's caption can run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from diht_k8s.report import formatting, sections
from diht_k8s.report.caveats import MANY, benchmark_caveats, label_caveats, page_caveats
from diht_k8s.report.model_cards import data_card, model_card
from diht_k8s.report.overview import (
    TYPE_NAMES,
    explained_reference,
    lede,
    model_title,
    overview,
    published,
)

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
        "percent": formatting.percent,
        "count": formatting.count,
        "duration": formatting.duration,
        "decimal": formatting.decimal,
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
        "splits": formatting.SPLITS,
        "label_notes": label_caveats(content["label"].get("report", {})),
        "benchmarks": [
            {**sections.benchmark(item), "notes": [] if "error" in item else benchmark_caveats(item)}
            for item in results
        ],
        "data_card": data_card(content),
        "model_card": model_card(content),
        "config_yaml": as_yaml(content["config"]),
    }
