"""The filter's section of the report page, from the `report.json` of a real run: it shows every figure that matters for
the filter.
"""

from __future__ import annotations

import re
from pathlib import Path

from diht_k8s.report import sections
from diht_k8s.report.page import environment
from tests.recipe.filter.shards import CAPTIONS, drawn, filter_pairs, pair, report_of


def section(folder: Path) -> str:
    """The section's text, without tags."""
    members = [member for number, caption in enumerate(CAPTIONS) for member in pair(str(number), caption)]
    members += pair("big", CAPTIONS[0], drawn(size=(400, 20)))
    rules = {"minActions": 1, "maxAspectRatio": 5, "duplicates": "Exact"}
    committed = filter_pairs(folder, members, rules)
    report = report_of(folder / "out")
    part = {"state": "committed", "summary": committed.summary, "report": report, "thumbnails": {}}
    content = {"missing": {}, "filter": part, "funnel": report["funnel"], "config": {"spec": {"filter": rules}}}
    html = (
        environment()
        .from_string('{% from "parts.html.jinja" import bars, more %}{% include "filter.html.jinja" %}')
        .render(
            content=content,
            filter_rules=sections.filter_rules(content),
            funnel=sections.funnel(content),
            dropped=sections.dropped(content),
            kept=sections.kept_examples(content),
            junk=sections.junk(content),
            damaged=[],
            pair=lambda example: f"{example['caption']} ",
        )
    )
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_section_shows_funnel_thresholds_histograms_names_and_examples_by_reason(tmp_path: Path) -> None:
    text = section(tmp_path)
    assert "Raw pairs 7 Readable 7 Complexity (C) 5 Action (A) 4 Large enough, not too long 3" in text
    assert "Image not seen before 1" in text
    assert "1, 1 (this run) (the paper's) 5 4" in text
    assert "Only C, A and T count here; other rules may drop more." in text
    assert re.search(r"Captions by complexity 0 2 1 1 2 4", text)
    assert re.search(r"Captions by number of actions 0 3 1 4", text)
    for name in ("Objects", "dog 2", "Attributes", "small 2", "Actions", "chase 2"):
        assert name in text
    for title in ("Image too small or too long: 1", "Image repeats an earlier one: 2", "Caption too simple (C): 2"):
        assert title in text
    assert "two girls share an umbrella" in text
