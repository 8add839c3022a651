"""When only a restart of the operator helps: a watch that has died without an error. Pure.

An API server that does not answer is not such a case: the watches see the errors and try again, and a restart would not
bring the server back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STALE_S: Final = 220.0
"""A watch ends by itself each minute, and its errors count as signs of life: after this time its thread is stuck."""


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
