"""Which kept images repeat an earlier one of the pool: fingerprints of all kept images in, numbers of the repeats out.

"Earlier" is the order of shards and samples, so that the answer depends on the data alone. Equal fingerprints are repeats (`Exact`: SHA-256 of the
file), or like ones (`Near`: difference hashes, as for benchmarks). Like ones are found through 16 bands of 16 bits: two images
of which an eighth of the steps differ share a band in 9 of 10 cases, and only those that share one are compared.

Shapes: N images of the pool, M of one shard.
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
    """Fingerprints of a pool in its order."""

    bits_N4: np.ndarray
    """uint64."""
    starts: Sequence[int]
    """first image of each shard, and N."""

    @staticmethod
    def of(shards: Sequence[np.ndarray]) -> FingerprintPool:
        """Join the shards' fingerprints (each [M, 4])."""
        starts = np.cumsum([0, *map(len, shards)]).tolist()
        empty = np.empty((0, WORDS), np.uint64)
        return FingerprintPool(np.concatenate([empty, *shards]), starts)

    def exact_repeats(self, shard: int) -> np.ndarray:
        """Places in a shard of images whose fingerprint has been there before, ascending."""
        numbers = np.arange(self.starts[shard], self.starts[shard + 1])
        return np.flatnonzero(self._first[numbers] < numbers)

    def near_repeats(self, shard: int) -> np.ndarray:
        """Places in a shard of images that are like an earlier one, ascending."""
        begin, end = self.starts[shard], self.starts[shard + 1]
        own_MB = self.bits_N4[begin:end].copy().view(np.uint16).reshape(-1, BANDS)
        candidates: list[list[np.ndarray]] = [[] for _ in range(end - begin)]
        for band, (order_N, keys_N) in enumerate(self._bands):
            own_M = own_MB[:, band]
            low_M, high_M = np.searchsorted(keys_N, own_M, "left"), np.searchsorted(keys_N, own_M, "right")
            for place in np.flatnonzero(own_M):  # a band without steps says nothing
                candidates[place].append(order_N[low_M[place] : high_M[place]])
        return np.array(
            [place for place, found in enumerate(candidates) if self._is_near_duplicate(begin + place, found)], int
        )

    @cached_property
    def _first(self) -> np.ndarray:
        """For each image the first one that is equal."""
        _, first_U, inverse_N = np.unique(self.bits_N4, axis=0, return_index=True, return_inverse=True)
        return first_U[inverse_N.reshape(-1)]

    @cached_property
    def _bands(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each band the images by their bits in it, and these bits."""
        keys_NB = self.bits_N4.copy().view(np.uint16).reshape(-1, BANDS)
        orders = [np.argsort(keys_NB[:, band], kind="stable").astype(np.int32) for band in range(BANDS)]
        return [(order_N, keys_NB[order_N, band]) for band, order_N in enumerate(orders)]

    def _is_near_duplicate(self, number: int, candidates: Sequence[np.ndarray]) -> bool:
        own_4 = self.bits_N4[number]
        if not candidates or np.bitwise_count(own_4).sum() < FEW_BITS:
            return False
        found = np.unique(np.concatenate(candidates))
        return is_near_duplicate(own_4, self.bits_N4[found[found < number]])
