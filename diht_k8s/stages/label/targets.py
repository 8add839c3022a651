"""Caption concepts as training targets of one head: a sparse 0/1 matrix, repeat factors and soft targets of 1/m.

In: names of each image's concepts, the classes. Out: numpy and torch arrays for the heads' training. Pure.

Shapes: N images, B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diht_k8s.stages.label.vocabulary import Concepts


@dataclass(frozen=True)
class Targets:
    """Which classes each image's caption names, as compressed rows."""

    class_ids: npt.NDArray[np.int64]
    """classes of image 0, then of image 1, ..."""
    offsets: npt.NDArray[np.int64]
    """image i has class_ids[offsets[i]:offsets[i + 1]]; N + 1 numbers."""
    classes: int
    """C."""

    @property
    def present(self) -> npt.NDArray[np.int64]:
        """m, the number of present classes of each image."""
        return np.diff(self.offsets)

    def counts(self) -> npt.NDArray[np.int64]:
        """In how many images each class is present."""
        return np.bincount(self.class_ids, minlength=self.classes)

    def image_ids(self) -> npt.NDArray[np.int64]:
        """The image of each entry of `class_ids`."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.present)

    def first(self, classes: int) -> Targets:
        """Those of the first classes only."""
        kept = self.class_ids < classes
        present = np.bincount(self.image_ids()[kept], minlength=len(self.present))
        return Targets(self.class_ids[kept], np.concatenate([[0], np.cumsum(present)]), classes)

    def soft(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        """1/m on each of an image's m present classes (float32); rows of zeros for images without any."""
        target_BC = torch.zeros(len(rows_B), self.classes)
        starts_B, present_B = self.offsets[rows_B], self.present[rows_B]
        row_of = np.repeat(np.arange(len(rows_B)), present_B)
        within = np.arange(len(row_of)) - np.repeat(np.cumsum(present_B) - present_B, present_B)
        columns = self.class_ids[np.repeat(starts_B, present_B) + within]
        target_BC[torch.from_numpy(row_of), torch.from_numpy(columns)] = torch.from_numpy(
            1 / np.repeat(present_B, present_B)
        ).float()
        return target_BC


def encode(names_N: Sequence[Sequence[str]], concepts: Concepts) -> Targets:
    """Class ids of each image's names; names outside of the vocabulary are left out."""
    ids = concepts.ids
    rows = [sorted({number for name in names for number in ids.get(name, ())}) for names in names_N]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Targets(np.array([number for row in rows for number in row], np.int64), offsets, len(concepts))


def concatenated(parts: Sequence[Targets]) -> Targets:
    """The targets of several sets of images, one after the other, with the same classes."""
    present = np.concatenate([part.present for part in parts])
    return Targets(
        np.concatenate([part.class_ids for part in parts]), np.concatenate([[0], np.cumsum(present)]), parts[0].classes
    )


def repeat_factors(targets: Targets) -> npt.NDArray[np.float64]:
    """How often each image is drawn in an epoch (square-root up-sampling of rare concepts, at the level of images).

    r_i = max over the image's concepts c of max(1, sqrt(T / f_c)), with f_c the share of images that have c: the form
    that Mahajan et al. 2018 and LVIS use; the paper says "square-root up-sampling" only. T is the median f_c (our
    choice: half of the concepts are up-sampled, whatever the corpus).

    Returns:
        N factors, 0 for an image that has no concept of this head.
    """
    frequency_C = targets.counts() / max(1, len(targets.present))
    occurring = frequency_C[frequency_C > 0]
    threshold = float(np.median(occurring)) if len(occurring) else 1.0
    with np.errstate(divide="ignore"):
        factor_C = np.maximum(1.0, np.sqrt(threshold / frequency_C))
    factor_N = np.zeros(len(targets.present))
    np.maximum.at(factor_N, targets.image_ids(), factor_C[targets.class_ids])
    return factor_N


def epoch_order(factor_N: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The images of one epoch in random order, each floor(r) times and once more with probability r - floor(r)."""
    times_N = np.floor(factor_N).astype(np.int64)
    times_N += rng.random(len(factor_N)) < factor_N - times_N
    return rng.permutation(np.repeat(np.arange(len(factor_N)), times_N))
