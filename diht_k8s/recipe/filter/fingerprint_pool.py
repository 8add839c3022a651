"""Find the kept images that repeat an earlier one of the pool: fingerprints of all kept images in, indices of the
repeats out.

"Earlier" means the order of shards and samples, so the result depends on the data alone. Repeats are images with equal
fingerprints (`Exact`: SHA-256 of the file) or with similar ones (`Near`: difference hashes, as for benchmarks). Similar
fingerprints are found through 16 bands of 16 bits: two images that differ in an eighth of their steps share a band in 9
of 10 cases, and only images that share a band are compared.

Shapes: N images of the pool, M images of one shard, B bands, U distinct fingerprints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from diht_k8s.recipe.filter.fingerprints import FEW_BITS, is_near_duplicate

WORDS: Final = 4
"""64-bit words of a fingerprint."""
BANDS: Final = 16


@dataclass(frozen=True)
class FingerprintPool:
    """Fingerprints of all kept images, in the order of the pool."""

    bits_N4: np.ndarray
    """uint64."""
    starts: Sequence[int]
    """index of the first image of each shard, and N."""

    @staticmethod
    def of(shards: Sequence[np.ndarray]) -> FingerprintPool:
        """Join the shards' fingerprints (each [M, 4])."""
        starts = np.cumsum([0, *map(len, shards)]).tolist()
        empty = np.empty((0, WORDS), np.uint64)
        return FingerprintPool(np.concatenate([empty, *shards]), starts)

    def exact_repeats(self, shard: int) -> np.ndarray:
        """Positions in a shard of the images whose fingerprint occurred before, ascending."""
        numbers = np.arange(self.starts[shard], self.starts[shard + 1])
        return np.flatnonzero(self._first[numbers] < numbers)

    def near_repeats(self, shard: int) -> np.ndarray:
        """Positions in a shard of the images that are near-duplicates of an earlier one, ascending."""
        begin, end = self.starts[shard], self.starts[shard + 1]
        own_MB = self.bits_N4[begin:end].copy().view(np.uint16).reshape(-1, BANDS)
        candidates: list[list[np.ndarray]] = [[] for _ in range(end - begin)]
        for band, (order_N, keys_N) in enumerate(self._bands):
            own_M = own_MB[:, band]
            low_M, high_M = np.searchsorted(keys_N, own_M, "left"), np.searchsorted(keys_N, own_M, "right")
            for place in np.flatnonzero(own_M):  # a band without steps carries no information
                candidates[place].append(order_N[low_M[place] : high_M[place]])
        return np.array(
            [place for place, found in enumerate(candidates) if self._is_near_duplicate(begin + place, found)], int
        )

    @cached_property
    def _first(self) -> np.ndarray:
        """The index of the first equal image, for each image, [N]."""
        _, first_U, inverse_N = np.unique(self.bits_N4, axis=0, return_index=True, return_inverse=True)
        return first_U[inverse_N.reshape(-1)]

    @cached_property
    def _bands(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each band: the images sorted by their bits in it, [N], and these bits, [N]."""
        keys_NB = self.bits_N4.copy().view(np.uint16).reshape(-1, BANDS)
        orders = [np.argsort(keys_NB[:, band], kind="stable").astype(np.int32) for band in range(BANDS)]
        return [(order_N, keys_NB[order_N, band]) for band, order_N in enumerate(orders)]

    def _is_near_duplicate(self, number: int, candidates: Sequence[np.ndarray]) -> bool:
        own_4 = self.bits_N4[number]
        if not candidates or np.bitwise_count(own_4).sum() < FEW_BITS:
            return False
        found = np.unique(np.concatenate(candidates))
        return is_near_duplicate(own_4, self.bits_N4[found[found < number]])
