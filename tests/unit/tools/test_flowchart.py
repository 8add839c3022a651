"""Flowcharts of the documentation: boxes in layers, without overlap, an arrow for each edge."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.flowchart import draw, parse

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("docs/architecture.md", "docs/concepts.md")
CHARTS = [text for page in PAGES for text in re.findall(r"(?s)```mermaid\n(.*?)```", (ROOT / page).read_text())]
SVG = "{http://www.w3.org/2000/svg}"


def boxes(text: str) -> list[tuple[float, float, float, float]]:
    rects = ElementTree.fromstring(draw(text)).iter(f"{SVG}rect")
    return [tuple(float(rect.attrib[name]) for name in ("x", "y", "width", "height")) for rect in rects]  # type: ignore[misc]


def test_nodes_labels_and_edges_are_read() -> None:
    chart = parse('flowchart TD\n a["first<br/>line"] -->|says| b & c\n b --> d[last]\n c --> d\n')
    assert {name: list(node.lines) for name, node in chart.nodes.items()} == {
        "a": ["first", "line"],
        "b": ["b"],
        "c": ["c"],
        "d": ["last"],
    }
    assert chart.edges == [("a", "b", "says"), ("a", "c", "says"), ("b", "d", ""), ("c", "d", "")]
    assert {name: node.layer for name, node in chart.nodes.items()} == {"a": 0, "b": 1, "c": 1, "d": 2}


@pytest.mark.parametrize("text", ["graph LR\na --> b", "flowchart TD\nsubgraph x", "flowchart TD\na --> b{c}"])
def test_other_language_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"begins with|not understood"):
        parse(text)


def test_circle_is_drawn_with_an_arrow_upwards() -> None:
    chart = parse("flowchart TD\na --> b\nb --> c\nc --> a\n")
    assert [chart.nodes[name].layer for name in "abc"] == [0, 1, 2]
    assert draw("flowchart TD\na --> b\nb --> c\nc --> a\n").count('class="arrow"') == 3


@pytest.mark.parametrize("text", CHARTS)
def test_boxes_of_our_pages_do_not_overlap_and_lie_inside(text: str) -> None:
    found = boxes(text)
    assert len(found) == len([node for node in parse(text).nodes.values() if node.lines])
    for (x, y, w, h), (u, v, k, m) in combinations(found, 2):
        assert x + w <= u or u + k <= x or y + h <= v or v + m <= y
    width, height = map(float, ElementTree.fromstring(draw(text)).attrib["viewBox"].split()[2:])
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in found)


def test_words_of_a_label_are_escaped() -> None:
    assert "<b>" not in draw("flowchart TD\na[x <b> y] --> b\n")
