"""Figures by whether captions name a colour: models find these first. Pure."""

from __future__ import annotations

from typing import Final, get_args

import numpy as np

from benchmarks.corpus.captions import Kind, kind_of
from diht_k8s.report.per_image import PerImage

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def by_kind(images: PerImage, figure: str) -> PerImage:
    """The images with a figure for each kind of caption beside the one of all: `FIGURE KIND`, in which other images
    weigh nothing.
    """
    kinds_N = np.array([kind_of(caption) for caption in images.texts])
    hits_N, weights_N = images.figures[figure]
    parts = {f"{figure} {kind}": (hits_N * (kinds_N == kind), weights_N * (kinds_N == kind)) for kind in KINDS}
    return PerImage(images.uids, images.shards, images.texts, {figure: (hits_N, weights_N), **parts})
