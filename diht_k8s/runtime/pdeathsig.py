"""End a program together with its parent (Linux), so that a lost terminal leaves no trainings behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final

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
