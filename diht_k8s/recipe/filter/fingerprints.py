"""Perceptual hashes: near-duplicates of images found by comparing brightness steps. Images in, 256-bit fingerprints out.

A difference hash of 16 x 16 steps (each bit: is the left neighbour brighter?). It survives re-encoding, scaling and small changes of
colour; mirrored and cropped images are not found. Two images are near-duplicates when few of the bits that either has set differ:
relative to them, because drawings on white have few steps, and would else all be alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from diht_k8s.recipe.shards.images import BadImageError, decode

STEPS: Final = 16
MAX_DIFFERENCE: Final = 0.25
"""Share of the set bits that may differ; see `docs/method.md` for what it finds and what it takes by mistake."""
MIN_STEP: Final = 3
"""Grey levels below which a step counts as none: noise of the encoding."""
FEW_BITS: Final = 12
"""Images with fewer steps are nearly empty: they are like nothing."""


def fingerprint(image: Image.Image) -> np.ndarray:
    """The image's bits as four unsigned integers of 64 bits."""
    grey = np.asarray(image.convert("L").resize((STEPS + 1, STEPS), Image.Resampling.BOX), dtype=np.int16)
    bits = grey[:, :-1] - grey[:, 1:] >= MIN_STEP
    return np.packbits(bits).view(np.uint64)


def is_near_duplicate(own_4: np.ndarray, others_N4: np.ndarray) -> bool:
    """Whether a fingerprint is a near-duplicate of any of the others."""
    differing = np.bitwise_count(others_N4 ^ own_4).sum(axis=1, dtype=np.int32)
    either = np.bitwise_count(others_N4 | own_4).sum(axis=1, dtype=np.int32)
    return bool((differing <= MAX_DIFFERENCE * either).any())


@dataclass(frozen=True)
class Gallery:
    """Fingerprints of images that must not turn up elsewhere, [N, 4]."""

    bits: np.ndarray

    def holds(self, image: Image.Image) -> bool:
        """Whether a near-duplicate of the image is among them."""
        if not len(self.bits):
            return False
        own = fingerprint(image)
        if np.bitwise_count(own).sum() < FEW_BITS:
            return False
        return is_near_duplicate(own, self.bits)


def gallery_of(images: Iterable[bytes]) -> Gallery:
    """The fingerprints of encoded images; unreadable ones are left out, since nothing can repeat them."""
    found = []
    for data in images:
        try:
            found.append(fingerprint(decode(data)))
        except BadImageError:
            continue
    return Gallery(np.array(found, dtype=np.uint64).reshape(-1, STEPS * STEPS // 64))
