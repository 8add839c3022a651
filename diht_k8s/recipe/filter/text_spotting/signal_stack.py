"""Keep a thread's alternate signal stack while foreign code runs.

OpenVINO's CPU plugin sets its own signal stack on the thread that loads it, and restores the former one when it is
unloaded. If two plugins are loaded (RapidOCR loads one per network) and the first is unloaded first, the second
restores freed memory, and the next signal (SIGTERM, for example) kills the process before any handler runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """Linux' `stack_t`."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore this thread's signal stack at the end. A plugin that is unloaded later then finds another stack than its
    own and leaves it alone.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
