"""Health of a running training: loss spikes and stragglers. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from typing import Final

WINDOW: Final = 100
SPIKE_DEVIATIONS: Final = 8.0
"""A loss this many mean absolute deviations above the median of the last hundred is a spike (our choice)."""
MIN_SPIKE: Final = 0.05
"""... and at least this share above it, so that a loss that hardly moves has none."""
STRAGGLER_RATIO: Final = 1.5
"""A rank that takes more than this multiple of the others' median time is reported."""


class Spikes:
    """Finds losses that jump out of the last hundred."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self.count = 0
        """spikes since it was last read and set to 0."""

    def add(self, loss: float) -> float | None:
        """Take in a finite loss; the median that it jumped from, or None."""
        spike = None
        if len(self._window) == WINDOW:
            median = statistics.median(self._window)
            deviation = sum(abs(value - median) for value in self._window) / WINDOW
            if loss > median + max(SPIKE_DEVIATIONS * deviation, MIN_SPIKE * abs(median)):
                spike, self.count = median, self.count + 1
        self._window.append(loss)
        return spike


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that worked longest before the first collective, and its time over the others' median."""
    if len(seconds) < 2:
        return 0, 1.0
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    others = statistics.median(value for index, value in enumerate(seconds) if index != rank)
    return rank, seconds[rank] / others if others > 0 else 1.0
