"""The table of kinds of junk: what became of each kind, and text of the pool shown as text."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from diht_k8s.report import sections
from diht_k8s.report.page import environment
from diht_k8s.stages.filter.summary import Summary, junk_table

POOL = (
    *[("", "")] * 3,
    ("", "complexity"),
    *[("<b>mark</b>", "text")] * 3,
    ("<b>mark</b>", ""),
    ("<b>mark</b>", "bad:x"),
    ("name", "complexity"),
)


def content(*pairs: tuple[str, str]) -> dict[str, Any]:
    found = junk_table(Summary(junk=Counter(pairs)), "junk")
    return {"missing": {}, "filter": {"state": "committed", "report": {"junk": found}}}


def html(found: dict[str, Any]) -> str:
    template = '{% from "parts.html.jinja" import more %}{% include "filter.html.jinja" %}'
    values = {"funnel": [], "filter_rules": "", "damaged": [], "dropped": [], "kept": [], "junk": sections.junk(found)}
    return environment().from_string(template).render(content=found, **values)


def test_table_shows_the_readable_pairs_of_each_kind_as_text() -> None:
    shown = html(content(*POOL))
    assert "<b>mark" not in shown
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown)).replace("\N{NO-BREAK SPACE}", " ")
    assert "&lt;b&gt;mark&lt;/b&gt; 4 25.0 % The image shows its own caption (T) 3 name 1 0.0 %" in text
    assert "All junk 5 20.0 % Caption too simple (C) 1; The image shows its own caption (T) 3" in text
    assert "Wanted pairs 4 75.0 % Caption too simple (C) 1" in text


@pytest.mark.parametrize("pairs", [(), (("", ""), ("", "text"))])
def test_pool_without_the_field_says_so(pairs: tuple[tuple[str, str], ...]) -> None:
    assert "No pair has a text in the field “junk”" in html(content(*pairs))


def test_run_that_asks_for_no_kinds_shows_none() -> None:
    found = content()
    found["filter"]["report"]["junk"] = None
    assert 'id="junk"' not in html(found)
