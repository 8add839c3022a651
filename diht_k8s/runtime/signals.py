"""Signals that end a program: SIGTERM and SIGINT as a flag, and SIGTERM when the parent dies.

Long loops check the flag: work stops at a safe point, not in the middle of a write. A lost terminal leaves no trainings
behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

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


PARENT_VARIABLE: Final = "DIHT_PARENT"
"""Process id of the program that started this one."""
_PR_SET_PDEATHSIG: Final = 1


@contextlib.contextmanager
def named_parent() -> Iterator[None]:
    """Name this process as the parent of programs that start inside.

    Left in the environment, the name would end this process at its own next `end_with_parent`.
    """
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(PARENT_VARIABLE, None)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies, if the environment names it."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)
