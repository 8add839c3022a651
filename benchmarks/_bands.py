"""Repeats of a pool by 16 bands of 16 bits, in memory.

Shapes: N images of the pool, M of a shard, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from diht_k8s.stages.filter.fingerprints import FEW_BITS, is_near_duplicate

WORDS: Final = 4
"""64-bit words of a fingerprint."""
BANDS: Final = 16


@dataclass(frozen=True)
class Bands:
    """Fingerprints of all kept images, in the order of the pool."""

    bits_N4: np.ndarray
    """uint64."""
    starts: Sequence[int]
    """index of the first image of each shard, and N."""

    @staticmethod
    def of(shards: Sequence[np.ndarray]) -> Bands:
        """Join the shards' fingerprints (each [M, 4])."""
        starts = np.cumsum([0, *map(len, shards)]).tolist()
        empty = np.empty((0, WORDS), np.uint64)
        return Bands(np.concatenate([empty, *shards]), starts)

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
