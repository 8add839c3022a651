"""Line charts as inline SVG, coloured by the page's style sheet: no script, the same in print. Pure.

The SVG's label tells screen readers where each line starts and ends. Every x has a strip whose `<title>` shows the
values under the pointer. Series differ by dash as well as by colour. Sizes are in SVG units: a chart is 360 wide and
grows with the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 360
HEIGHT: Final = 190
LEFT, RIGHT, TOP, BOTTOM = 50, 16, 12, 30
MAX_POINTS: Final = 240


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    lows: Sequence[float] = ()
    """lower edge of the band around the line, empty for none."""
    highs: Sequence[float] = ()


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    percent: bool = False,
    from_zero: bool = False,
    x_names: Sequence[str] = (),
) -> Markup:
    """A chart; empty where no series has a value.

    Args:
        title: for screen readers; the page shows its own.
        series: up to four lines; values that are None or not finite are left out.
        x_label: what the x axis shows.
        percent: y is a share, shown in percent.
        from_zero: the y axis starts at 0.
        x_names: names of x = 0, 1, 2, ... in place of numbers.
    """
    values = [value for line in series for value in _finite((*line.ys, *line.lows, *line.highs))]
    if not values:
        return Markup("")
    xs = [x for line in series for x in line.xs]
    y_ticks = ticks(0.0 if from_zero else min(values), max(values))
    frame = _Frame(min(xs), max(xs), y_ticks[0], y_ticks[-1])
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_spoken(title, series, percent))}">'
    ]
    for tick in y_ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick, percent)}</text>')
    for x, name in _x_ticks(frame, x_names):
        parts.append(
            f'<text x="{frame.x(x):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for index, line in enumerate(series):
        parts += _line(frame, line, index, dots=bool(x_names))
    parts += _strips(frame, series, x_label, x_names, percent)
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704 (all text in it is escaped above)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high], about `count` of them."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - abs(low) * 0.1 - 1e-6, high + abs(high) * 0.1 + 1e-6
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float, percent: bool = False) -> str:
    """A tick's text: short, with k and M."""
    if percent:
        return f"{100 * value:.3g}%"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            unit = 1e3 if suffix == "k" else limit
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.4g}"


def thinned(
    xs: Sequence[float], ys: Sequence[float | None], points: int = MAX_POINTS
) -> tuple[list[float], list[float | None]]:
    """At most `points` points: means over equal intervals, so that no single point is picked."""
    size = ceil(len(xs) / points) if xs else 1
    kept_xs, kept_ys = list[float](), list[float | None]()
    for start in range(0, len(xs), size):
        block = _finite(ys[start : start + size])
        kept_xs.append(xs[min(start + size, len(xs)) - 1])
        kept_ys.append(sum(block) / len(block) if block else None)
    return kept_xs, kept_ys


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return LEFT + (value - self.x_low) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - BOTTOM - TOP)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and isfinite(value)]


def _x_ticks(frame: _Frame, names: Sequence[str]) -> list[tuple[float, str]]:
    if names:
        return [(float(index), name) for index, name in enumerate(names)]
    inside = [tick for tick in ticks(frame.x_low, frame.x_high) if frame.x_low <= tick <= frame.x_high]
    return [(tick, number(tick)) for tick in inside]


def _line(frame: _Frame, line: Series, index: int, *, dots: bool) -> list[str]:
    parts: list[str] = []
    if line.lows:
        edge = [(x, y) for x, y in zip(line.xs, line.highs, strict=True)]
        edge += [(x, y) for x, y in zip(reversed(line.xs), reversed(line.lows), strict=True)]
        outline = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge)
        parts.append(f'<polygon class="band s{index}" points="{outline}"/>')
    points = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None and isfinite(y)]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="line s{index}" points="{path}"/>')
    if dots:
        parts += [
            f'<circle class="dot s{index}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in points
        ]
    return parts


def _strips(frame: _Frame, series: Sequence[Series], x_label: str, x_names: Sequence[str], percent: bool) -> list[str]:
    """One transparent strip for each x, from midpoint to midpoint, with the values there as its tooltip."""
    xs = sorted({x for line in series for x in line.xs})
    at = [dict(zip(line.xs, line.ys, strict=True)) for line in series]  # lines of two runs have no x in common
    middles = [(frame.x(left) + frame.x(right)) / 2 for left, right in pairwise(xs)]
    parts: list[str] = []
    for index, (left, right) in enumerate(pairwise([LEFT, *middles, WIDTH - RIGHT])):
        values = [
            f"{line.name} {number(value, percent)}"
            for line, values_at in zip(series, at, strict=True)
            if (value := values_at.get(xs[index])) is not None and isfinite(value)
        ]
        where = f"{x_label} {x_names[index] if x_names else number(xs[index])}"
        parts.append(
            f'<rect class="at" x="{left:.1f}" width="{right - left:.1f}" y="{TOP}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(where)}: {escape(', '.join(values) or 'no value')}</title></rect>"
        )
    return parts


def _spoken(title: str, series: Sequence[Series], percent: bool) -> str:
    """The chart in words: where each line starts and ends."""
    ends: list[str] = []
    for line in series:
        values = _finite(line.ys)
        if values:
            ends.append(f"{line.name} from {number(values[0], percent)} to {number(values[-1], percent)}")
    return f"{title}: {'; '.join(ends)}"
