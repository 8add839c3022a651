"""Batches that a thread reads ahead, a bounded number of them; its error comes when the batch is asked for that it
stands for.

Each travels to the device on a stream of its own, while the one before it trains. Begun after the step's end, the copy
of 4,096 images of 224 px would take 12 to 25 ms of an idle card. Two batches lie on the device at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator

import torch

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
        # A thread that still computes when the interpreter is taken down would abort the process, and hide its exit
        # code.
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


class DeviceBatches:
    """An iterator over the batches of a rank, on its device; for the thread that trains."""

    def __init__(self, read: ReadAhead, device: torch.device) -> None:
        """Make one.

        Args:
            read: the batches on the host, in page-locked memory.
            device: of this rank; the CPU gets the batches as they are.
        """
        self._read, self._device = read, device
        self._sent: Batch | None = None
        if device.type != "cpu":
            self._module = torch.get_device_module(device)
            self._copies = self._module.Stream(device)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from here on."""
        return self

    def __next__(self) -> Batch:
        """The next batch; the one after it sets out, if it is read by now."""
        if self._device.type == "cpu":
            return next(self._read)
        batch = self._send(next(self._read)) if self._sent is None else self._sent
        computes = self._module.current_stream(self._device)
        computes.wait_stream(self._copies)  # before the next copy is queued there, which is not to be waited for
        batch.used_on(computes)
        later = self._read.next_if_ready()
        self._sent = None if later is None else self._send(later)
        return batch

    def close(self) -> None:
        """End the reading."""
        self._read.close()

    def _send(self, batch: Batch) -> Batch:
        with self._module.stream(self._copies):
            return batch.on(self._device)
