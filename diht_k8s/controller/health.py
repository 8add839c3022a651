"""When the operator is so ill that only a restart helps: a watch that has died without a word. Pure.

An API server that is away is none of that: watches know of it and try again, and a restart would not bring it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STALE_S: Final = 220.0
"""A watch ends by itself each minute, and its errors count as signs of life: after so long its thread is stuck."""
LATE_S: Final = 90.0
"""A change that the watch of runs has not told of for so long after it was found in the list: the watch is dead."""


def stuck_watch(alive_at: Mapping[str, float], now: float) -> str:
    """Which of our watches is stuck.

    Args:
        alive_at: kind -> when its thread last got somewhere, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty where none is.
    """
    silent = {kind: now - at for kind, at in alive_at.items() if now > at + STALE_S}
    return next((f"the watch of {kind} has been silent for {since:.0f} s" for kind, since in silent.items()), "")


def untold_change(missed: Mapping[tuple[str, str], float], now: float) -> str:
    """Which run's change the watch of runs did not tell of.

    Args:
        missed: namespace and name -> when the change was found in the list, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty where all was told.
    """
    late = [f"{namespace}/{name}" for (namespace, name), at in missed.items() if now > at + LATE_S]
    return f"the watch of runs does not tell of changes: {', '.join(sorted(late)[:3])}" if late else ""
