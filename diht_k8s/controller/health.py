"""When only a restart of the operator helps: a watch that has died without an error. Pure.

An API server that does not answer is not such a case: the watches see the errors and try again, and a restart would not
bring the server back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STALE_S: Final = 220.0
"""A watch ends by itself each minute, and its errors count as signs of life: after this time its thread is stuck."""
LATE_S: Final = 90.0
"""If the watch of runs still misses a change this long after the list showed it, the watch is dead."""


def stuck_watch(alive_at: Mapping[str, float], now: float) -> str:
    """Which of our watches is stuck.

    Args:
        alive_at: kind -> when its thread last got somewhere, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty if none is stuck.
    """
    silent = {kind: now - at for kind, at in alive_at.items() if now > at + STALE_S}
    return next((f"the watch of {kind} has been silent for {since:.0f} s" for kind, since in silent.items()), "")


def missed_change(missed: Mapping[tuple[str, str], float], now: float) -> str:
    """Which run's change the watch of runs has missed.

    Args:
        missed: namespace and name -> when the change was found in the list, seconds, monotonic.
        now: seconds on the same clock.

    Returns:
        One line; empty if none was missed.
    """
    late = [f"{namespace}/{name}" for (namespace, name), at in missed.items() if now > at + LATE_S]
    return f"the watch of runs misses changes: {', '.join(sorted(late)[:3])}" if late else ""
