"""Batches that a thread reads ahead, a bounded number of them; its error comes when the batch is asked for that it stands for."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable

from diht_k8s.stages.train.data.batch import Batch

STOP_SECONDS = 30.0
"""For the batch that is being made to be finished, at the end."""


class ReadAhead:
    """An iterator over the batches, without end; `close` ends the thread."""

    def __init__(self, fill: Callable[[ReadAhead], None], *, depth: int) -> None:
        """Begin to read.

        Args:
            fill: what the thread does: it calls `hand_over` until that is refused.
            depth: batches that wait, at most.
        """
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._error: BaseException | None = None
        self.closed = threading.Event()
        self._thread = threading.Thread(target=fill, args=(self,), name="loader", daemon=True)
        self._thread.start()
        # A thread that still computes when the interpreter is taken down would abort the process, and hide its exit code.
        atexit.register(self.close)

    def __iter__(self) -> ReadAhead:
        """The batches from here on."""
        return self

    def __next__(self) -> Batch:
        """The next batch, once it is there."""
        if self._error is not None:
            raise self._error
        return self._opened(self._ready.get())

    def next_if_ready(self) -> Batch | None:
        """The next batch if it is there; an error waits for `next`."""
        with contextlib.suppress(queue.Empty):
            item = self._ready.get_nowait() if self._error is None else self._error
            if not isinstance(item, BaseException):
                return item
            self._error = item
        return None

    def close(self) -> None:
        """End the thread, after the batch that it makes."""
        atexit.unregister(self.close)
        self.closed.set()
        self._thread.join(STOP_SECONDS)

    def hand_over(self, item: Batch | BaseException) -> bool:
        """Put a batch, or the error in its place, where `next` finds it; False if nobody waits for it any longer."""
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.2)
                return True
        return False

    def _opened(self, item: Batch | BaseException) -> Batch:
        if isinstance(item, BaseException):
            self._error = item
            raise item
        return item
