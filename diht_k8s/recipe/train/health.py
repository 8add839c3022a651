"""Health of a running training: loss spikes, stragglers, model FLOPs utilisation. Mostly pure.

In: figures of each step. Out: what goes into the metrics, and warnings.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.recipe.train.estimate.gpus import GPUS, name_of_product
from diht_k8s.recipe.train.model.student import Student

WINDOW: Final = 100
SPIKE_DEVIATIONS: Final = 8.0
"""A loss this many mean absolute deviations above the median of the last hundred is a spike (our choice)."""
MIN_SPIKE: Final = 0.05
"""... and at least this share above it, so that a loss that hardly moves has none."""
STRAGGLER_RATIO: Final = 1.5
"""A rank that takes more than this multiple of the others' median time is reported."""


class Spikes:
    """Finds losses that jump out of the last hundred."""

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=WINDOW)
        self.count = 0
        """spikes since it was last read and set to 0."""

    def add(self, loss: float) -> float | None:
        """Take in a finite loss; the median that it jumped from, or None."""
        spike = None
        if len(self._window) == WINDOW:
            median = statistics.median(self._window)
            deviation = sum(abs(value - median) for value in self._window) / WINDOW
            if loss > median + max(SPIKE_DEVIATIONS * deviation, MIN_SPIKE * abs(median)):
                spike, self.count = median, self.count + 1
        self._window.append(loss)
        return spike


def slowest(seconds: Sequence[float]) -> tuple[int, float]:
    """The rank that worked longest before the first collective, and its time over the others' median."""
    if len(seconds) < 2:
        return 0, 1.0
    rank = max(range(len(seconds)), key=seconds.__getitem__)
    others = statistics.median(value for index, value in enumerate(seconds) if index != rank)
    return rank, seconds[rank] / others if others > 0 else 1.0


def peak_flops(device_name: str) -> float | None:
    """Peak of a device in operations a second at 16 bits, None if unknown (CPUs, slices of a card, other cards)."""
    name = name_of_product(device_name)
    return None if name is None else 1e12 * GPUS[name].half_tflops


class MfuMeter:
    """Model FLOPs utilisation: three times the forward pass's operations (backward costs two) over the device's peak.

    Recomputed activations do not count, as is the custom.
    """

    def __init__(self, config: dict[str, Any], peak: float) -> None:
        """Count the operations of an image.

        Args:
            config: the model's configuration; it is built once more without memory.
            peak: of one device, in operations a second.
        """
        self._peak, self._text = peak, {}
        with torch.device("meta"):
            self._model = Student(config).eval()
        size: Any = self._model.clip.visual.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        self._image = self._count(self._model.clip.encode_image, torch.empty(1, 3, height, width, device="meta"))

    def operations(self, tokens_BT: Tensor) -> float:
        """Forward and backward of a batch whose texts are cut to its longest caption."""
        length = int(tokens_BT.argmax(dim=1).max()) + 1
        if length not in self._text:
            tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
            self._text[length] = self._count(lambda t: self._model.text_features(t), tokens)
        return 3.0 * len(tokens_BT) * (self._image + self._text[length])

    def percent(self, operations: float, seconds: float) -> float:
        """Share of the peak."""
        return 100.0 * operations / (seconds * self._peak)

    @staticmethod
    def _count(call: Callable[[Tensor], Tensor], argument: Tensor) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(argument)
        return float(counter.get_total_flops())
