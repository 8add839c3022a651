"""Keep a thread's alternate signal stack while foreign code runs.

OpenVINO's plugin for processors gives the thread that loads it a signal stack of its own, and gives the former one back when it ends.
Where two are loaded (RapidOCR loads one for each network) and the first ends first, what comes back is memory that is no longer there,
and the next signal, SIGTERM for example, ends the process at once, without a handler.
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
    """Put this thread's signal stack back at the end; a plugin that ends later then finds none of its own and changes nothing."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
