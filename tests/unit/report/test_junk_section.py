"""The table of kinds of junk and rules: shares of each kind, and text of the pool shown as text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from diht_k8s.report import sections
from diht_k8s.report.page import environment
from diht_k8s.stages.filter.junk_kinds import JunkKinds
from diht_k8s.stages.filter.report import STEPS


def content(*pairs: tuple[str, str]) -> dict[str, Any]:
    kinds = JunkKinds()
    for kind, reason in pairs:
        kinds.add(kind, reason)
    return {"missing": {}, "filter": {"state": "committed", "report": {"junk": kinds.figures("junk", STEPS)}}}


def html(found: dict[str, Any]) -> str:
    template = '{% from "parts.html.jinja" import bars, more %}{% include "filter.html.jinja" %}'
    values = {"funnel": [], "filter_rules": "", "damaged": [], "dropped": [], "kept": [], "junk": sections.junk(found)}
    return environment().from_string(template).render(content=found, **values)


POOL = (
    *[("", "")] * 3,
    ("", "complexity"),
    *[("<b>mark</b>", "text")] * 3,
    ("<b>mark</b>", ""),
    ("<b>mark</b>", "bad:x"),
    ("name", "complexity"),
)


def test_row_of_a_kind_holds_the_share_that_stays_and_that_each_rule_drops() -> None:
    found = sections.junk(content(*POOL))
    assert found is not None
    assert found["columns"] == ["Caption too simple (C)", "The image shows its own caption (T)"]
    assert [(row["name"], row["pairs"], row["cells"]) for row in found["rows"]] == [
        ("<b>mark</b>", 5, [0.25, 0, 0.75]),
        ("name", 1, [0, 1, 0]),
        ("All junk", 6, [0.2, 0.2, 0.6]),
        ("Wanted pairs", 4, [0.75, 0.25, 0]),
    ]


def test_share_that_is_kept_stands_before_the_rules_where_a_phone_shows_it() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html(content(*POOL))))
    assert "Kind Pairs Kept Caption too simple (C) The image shows" in text
    assert 'class="cell kept" style="--share:0.250">25<' in html(content(*POOL))


def test_page_says_precision_recall_and_what_chance_would_leave() -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html(content(*POOL)))).replace("\N{NO-BREAK SPACE}", " ")
    assert "drops 80.0 % of the junk and keeps 75.0 % of the wanted pairs; 80.0 % of what it drops is junk" in text
    assert "Before the filter 55.6 % After it 25.0 % After dropping as many at random 55.6 %" in text
    assert "Of the pairs that it drops, junk 50 100" in text


def test_kind_that_holds_html_is_shown_as_text() -> None:
    assert "&lt;b&gt;mark&lt;/b&gt;" in html(content(*POOL))
    assert "<b>mark" not in html(content(*POOL))


@pytest.mark.parametrize("pairs", [(), (("", ""), ("", "text"))])
def test_pool_without_the_field_says_so(pairs: tuple[tuple[str, str], ...]) -> None:
    assert "No pair has a text in the field “junk”" in html(content(*pairs))


def test_run_that_asks_for_no_kinds_shows_none() -> None:
    found = content()
    found["filter"]["report"]["junk"] = None
    assert 'id="junk"' not in html(found)
