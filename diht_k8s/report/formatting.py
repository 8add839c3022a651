"""Figures and names of a report as text: shares, differences, counts, durations, splits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DASH: Final = "\u2013"
DIRECTIONS: Final = {"text_to_image": "caption to image", "image_to_text": "image to caption"}
SPLITS: Final = {"Development": "development", "HeldOut": "held-out"}


def percent(value: float | None) -> str:
    """A share in percent with one decimal; a dash for None."""
    return DASH if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """A whole number with separators; a dash for None."""
    return DASH if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """Three significant digits; numbers from 1,000 without decimals; a dash for None."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def split_name(benchmark: Mapping[str, Any]) -> str:
    """`held-out `, `development ` or nothing, to stand before a noun."""
    return f"{SPLITS[benchmark['split']]} " if benchmark.get("split") else ""
