"""Counts by reason, each with its first example: what an import left out, and where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

MAX_SHOWN: Final = 200
"""Characters of an example: names can be as long as a table's cell."""
MAX_SUFFIXES: Final = 20
"""Suffixes that are told apart: names such as `scan.0001` have one each."""
OTHER_SUFFIXES: Final = "other suffixes"


class Tally(dict[str, dict[str, Any]]):
    """Reason -> `count`, and the `example` that came first."""

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count what was left out.

        Args:
            reason: why.
            example: where the first one lies.
            count: how many.
        """
        found = self.setdefault(reason, {"count": 0, "example": printable(example)})
        found["count"] += count

    def merge(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the counts of another tally."""
        for reason, each in other.items():
            self.add(reason, each["example"], each["count"])

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return sum(each["count"] for each in self.values())

    def lines(self, before: str) -> list[str]:
        """A line for each reason, for people."""
        return [f"{before}: {each['count']} {why}, for example {each['example']}" for why, each in self.items()]


def by_suffix(paths: Iterable[Path]) -> Tally:
    """Files by their suffix in lower case, the commonest ones; the rest is counted together."""
    found = list(paths)
    counts = Counter(_suffix(path) for path in found)
    told = {suffix for suffix, _ in counts.most_common(MAX_SUFFIXES)}
    tally = Tally()
    for path in found:
        suffix = _suffix(path)
        tally.add(suffix if suffix in told else OTHER_SUFFIXES, str(path))
    return tally


def _suffix(path: Path) -> str:
    return printable(path.suffix.lower()) or "no suffix"


def printable(text: str) -> str:
    """A name in one line for people: control characters and lone surrogates as escapes, the middle of a long one cut."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[-MAX_SHOWN // 2 :]}"
