"""The side of the images in each batch of a training (`train.stages`)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from diht_k8s.api.train import Train


@dataclass(frozen=True)
class ImageSizes:
    """Sides in pixels by samples seen."""

    last: int
    """the model's own."""
    earlier: tuple[tuple[int, int], ...] = ()
    """samples up to which a size holds, and the size; of all stages but the last."""

    @classmethod
    def of(cls, train: Train, size: int) -> ImageSizes:
        """Those of a training whose model has a size."""
        ends = itertools.accumulate(stage.samples for stage in train.stages)
        return cls(size, tuple(zip(ends, [stage.image_size for stage in train.stages], strict=True))[:-1])

    def at(self, seen: int) -> int:
        """The side of the images of the step that begins after `seen` samples."""
        return next((size for end, size in self.earlier if seen < end), self.last)
