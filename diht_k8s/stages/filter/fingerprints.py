"""Perceptual hashes that find near-duplicate images, and the gallery of benchmark images that must not be trained on.

A difference hash of 16 x 16 brightness steps (each bit: is the left neighbour brighter?), 256 bits an image. It
survives re-encoding, scaling and small changes of colour; it does not find mirrored or cropped images. Two images are
near-duplicates when they differ in a small share of the bits that either of them sets. The measure is relative because
drawings on white have few steps and would otherwise all look alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Spec
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.signals import StopFlag

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


logger = logging.getLogger(__name__)


def benchmark_shards(spec: Spec, storage: Storage, name: str) -> list[str]:
    """The shards of a benchmark of `spec.evaluate`.

    Raises:
        UserError: no benchmark has this name.
    """
    benchmarks = [] if spec.evaluate is None else spec.evaluate.benchmarks
    for benchmark in benchmarks:
        if benchmark.name == name:
            return storage.expand(benchmark.shards)
    known = ", ".join(benchmark.name for benchmark in benchmarks) or "none"
    raise UserError(
        f"spec.filter.decontaminate: no benchmark is called {name} (there are: {known}): "
        "add it to spec.evaluate.benchmarks"
    )


def read_gallery(spec: Spec, storage: Storage, names: Sequence[str], stop: StopFlag) -> Gallery | None:
    """Fingerprints of all images of the benchmarks; None if `names` is empty."""
    return gallery_of(_images(spec, storage, names, stop)) if names else None


def _images(spec: Spec, storage: Storage, names: Sequence[str], stop: StopFlag) -> Iterator[bytes]:
    uris = [uri for name in names for uri in benchmark_shards(spec, storage, name)]
    bad_shards = BadShards(spec.data.max_bad_shards, len(uris))
    for uri in uris:
        samples = read_samples(storage, uri, check=lambda: stop.raise_if_requested("finished shards are kept"))
        yield from (sample.image for sample in bad_shards.salvage(uri, samples))
    for uri, damage in bad_shards.found.items():
        logger.warning("%s; images behind the damage are not kept out of the training", damage.of(uri))
