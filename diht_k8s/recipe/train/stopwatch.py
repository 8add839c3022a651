"""How long a device computes, measured without waiting for it."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Time of a forward pass on a device, without synchronising it."""

    def __init__(self, device: torch.device) -> None:
        """Make one for a device."""
        self._began, self._ended = 0.0, 0.0
        self._events = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))

    def start(self) -> None:
        """The pass begins."""
        self._began = time.perf_counter()
        if self._events is not None:
            self._events[0].record()

    def stop(self) -> None:
        """The pass ends."""
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """To be asked after the step, when the device is past both marks."""
        if self._events is not None:
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._ended - self._began
