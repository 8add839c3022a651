"""Excepthook of the `torchx` command: one line for an error of ours, where TorchX prints a traceback."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from diht_k8s.api.errors import DihtError

COMMAND: Final = "torchx"


class OneLineErrors:
    """Prints each `DihtError` that nobody catches as one line, once; all other errors as before."""

    def __init__(self) -> None:
        self._printed: BaseException | None = None
        self._main, self._thread = sys.excepthook, threading.excepthook

    def in_main(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Stands for `sys.excepthook`."""
        if isinstance(error, DihtError):
            self._print(error)
        else:
            self._main(kind, error, trace)

    def in_thread(self, arguments: threading.ExceptHookArgs) -> None:
        """Stands for `threading.excepthook`: `torchx log` reads in threads, and raises their error again at the end."""
        if isinstance(arguments.exc_value, DihtError):
            self._print(arguments.exc_value)
        else:
            self._thread(arguments)

    def _print(self, error: DihtError) -> None:
        if error is not self._printed:
            print(f"diht: {error}", file=sys.stderr)
        self._printed = error


def install() -> None:
    """Print one-line errors if this program is the `torchx` command; other programs keep their hooks."""
    installed = isinstance(getattr(sys.excepthook, "__self__", None), OneLineErrors)
    if Path(sys.argv[0]).name == COMMAND and not installed:
        hooks = OneLineErrors()
        sys.excepthook, threading.excepthook = hooks.in_main, hooks.in_thread
