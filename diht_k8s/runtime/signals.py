"""SIGTERM and SIGINT as a flag that long loops check: work stops at a safe point, not in the middle of a write."""

from __future__ import annotations

import signal
from types import FrameType

from diht_k8s.api.errors import StopRequested


class StopFlag:
    """Set by the first SIGTERM or SIGINT; a second SIGINT ends the program at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> StopFlag:
        """Take over SIGTERM and SIGINT of this process (main thread only)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def raise_if_requested(self, saved: str = "finished work is kept") -> None:
        """Raise at a safe point.

        Raises:
            StopRequested: a signal came.
        """
        if self.requested:
            raise StopRequested(f"stopped on request; {saved}: start again to resume")
