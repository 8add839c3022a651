"""`report.html` from the report's content: one file, no script, nothing loaded from anywhere. Captions and names are escaped."""

from __future__ import annotations

from typing import Any, Final

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from diht_k8s.recipe.evaluation.report import views
from diht_k8s.recipe.evaluation.report.notes import lede, percent

MAX_BYTES: Final = 5 << 20


def render(content: dict[str, Any]) -> str:
    """The page.

    Args:
        content: see `report.content.report_content`, pictures included.
    """
    environment = Environment(
        loader=PackageLoader("diht_k8s.recipe.evaluation.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": views.count,
        "duration": views.duration,
        "decimal": views.decimal,
    }
    page = environment.get_template("page.html.jinja").render(
        content=content,
        lede=lede(content),
        cards=views.cards(content),
        steps=views.steps(content),
        funnel=views.funnel(content),
        dropped=views.dropped(content),
        kept=views.kept_examples(content),
        charts=views.training_charts(content),
        benchmarks=[views.benchmark(item) for item in content["benchmarks"]],
        run_yaml=yaml.safe_dump(content["config"], sort_keys=False, allow_unicode=True, width=100),
    )
    assert len(page.encode()) <= MAX_BYTES, "pictures are capped in number and size"
    return page
