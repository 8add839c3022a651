"""Ticks, thinning and the safety of charts."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from diht_k8s.report.plots import LEFT, MAX_POINTS, RIGHT, WIDTH, Series, line_chart, number, thinned, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1.0]),
        (3.1, 5.9, [3, 4, 5, 6]),
        (14.3, 14.3, [12, 13, 14, 15, 16]),
        (0.00031, 0.00152, [0, 0.0005, 0.001, 0.0015, 0.002]),
    ],
)
def test_ticks_when_given_a_span_are_round_and_cover_it(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0.25, True, "25%"), (25600, False, "25.6k"), (3.2e6, False, "3.2M"), (0.0015, False, "0.0015"), (0, False, "0")],
)
def test_number_when_shown_at_a_tick_is_short(value: float, percent: bool, text: str) -> None:
    assert number(value, percent) == text


def test_thinned_when_long_keeps_means_and_the_last_x() -> None:
    xs = [float(x) for x in range(1000)]
    kept_xs, kept_ys = thinned(xs, [1.0 if x % 2 else None for x in range(1000)])
    assert len(kept_xs) <= MAX_POINTS
    assert kept_xs[-1] == 999.0
    assert set(kept_ys) == {1.0}


def tooltips(chart: Markup) -> list[str | None]:
    return [title.text for title in ElementTree.fromstring(str(chart)).iter("title")]


def test_chart_when_names_hold_markup_is_wellformed_and_says_the_ends() -> None:
    series = [Series('<b>&"probe"', [0, 1], [0.5, 0.75], [0.4, 0.6], [0.6, 0.8])]
    chart = line_chart("A & B", series, x_label="<shots>", percent=True, x_names=["1", "2"])
    root = ElementTree.fromstring(str(chart))
    assert root.attrib["aria-label"] == 'A & B: <b>&"probe" from 50% to 75%'
    assert not root.findall(".//b")
    assert tooltips(chart) == ['<shots> 1: <b>&"probe" 50%', '<shots> 2: <b>&"probe" 75%']


def test_chart_when_values_are_missing_leaves_them_out_and_is_empty_without_any() -> None:
    chart = line_chart("loss", [Series("loss", [0, 1, 2], [1.0, None, float("nan")])], x_label="samples")
    assert "nan" not in chart.lower()
    assert tooltips(chart) == ["samples 0: loss 1", "samples 1: no value", "samples 2: no value"]
    assert line_chart("loss", [Series("loss", [0], [None])], x_label="samples") == ""


def test_chart_when_xs_are_uneven_covers_the_width_with_strips_that_meet_halfway() -> None:
    chart = line_chart("loss", [Series("loss", [0, 2, 10], [3.0, 2.0, 1.0])], x_label="samples")
    strips = [rect.attrib for rect in ElementTree.fromstring(str(chart)).iter("rect")]
    lefts = [float(strip["x"]) for strip in strips]
    rights = [float(strip["x"]) + float(strip["width"]) for strip in strips]
    span = WIDTH - LEFT - RIGHT
    assert lefts == pytest.approx([LEFT, LEFT + 0.1 * span, LEFT + 0.6 * span], abs=0.1)
    assert rights == pytest.approx([*lefts[1:], WIDTH - RIGHT], abs=0.15)


def test_chart_when_its_lines_have_other_x_then_each_strip_tells_what_is_there() -> None:
    first, second = Series("a", [10.0, 30.0], [3.0, 1.0]), Series("b", [20.0, 30.0], [2.5, 1.5])
    titles = tooltips(line_chart("loss", [first, second], x_label="samples"))
    assert titles == ["samples 10: a 3", "samples 20: b 2.5", "samples 30: a 1, b 1.5"]
