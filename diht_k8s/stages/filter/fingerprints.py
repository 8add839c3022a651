"""Perceptual hashes that find near-duplicate images by brightness steps: images in, 256-bit fingerprints out.

A difference hash of 16 x 16 steps (each bit: is the left neighbour brighter?). It survives re-encoding, scaling and
small changes of colour; it does not find mirrored or cropped images. Two images are near-duplicates when they differ in
a small share of the bits that either of them sets. The measure is relative because drawings on white have few steps and
would otherwise all look alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from diht_k8s.data.shards.images import BadImageError, decode

STEPS: Final = 16
MAX_DIFFERENCE: Final = 0.25
"""Share of the set bits that may differ; `docs/method.md` gives its hits."""
MIN_STEP: Final = 3
"""Smallest step that counts, in grey levels: smaller ones are noise of the encoding."""
FEW_BITS: Final = 12
"""Images with fewer steps are nearly empty and match no other image."""


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
    """Fingerprints, [N, 4], of images that must not occur in the training data."""

    bits: np.ndarray

    def holds(self, image: Image.Image) -> bool:
        """Whether the gallery contains a near-duplicate of the image."""
        return self.holds_bits(fingerprint(image))

    def holds_bits(self, own_4: np.ndarray) -> bool:
        """Whether the gallery contains a near-duplicate of the image with this fingerprint."""
        if not len(self.bits) or np.bitwise_count(own_4).sum() < FEW_BITS:
            return False
        return is_near_duplicate(own_4, self.bits)


def gallery_of(images: Iterable[bytes]) -> Gallery:
    """The fingerprints of encoded images. Unreadable images are skipped, since nothing can repeat them."""
    found = []
    for data in images:
        try:
            found.append(fingerprint(decode(data)))
        except BadImageError:
            continue
    return Gallery(np.array(found, dtype=np.uint64).reshape(-1, STEPS * STEPS // 64))
