"""Repeats of a pool are found across shards; the first one stays, and near-duplicates equal those found by comparing
all pairs.
"""

from __future__ import annotations

import numpy as np
import pytest

from diht_k8s.recipe.filter.fingerprint_pool import FingerprintPool
from diht_k8s.recipe.filter.fingerprints import FEW_BITS, MAX_DIFFERENCE


def drawn(rng: np.random.Generator, count: int, share: float = 0.35) -> np.ndarray:
    return np.packbits(rng.random((count, 256)) < share, axis=1).view(np.uint64)


def changed(rng: np.random.Generator, bits: np.ndarray, flips: int) -> np.ndarray:
    steps = np.unpackbits(bits.view(np.uint8))
    steps[rng.choice(256, flips, replace=False)] ^= 1
    return np.packbits(steps).view(np.uint64)


def test_equal_images_stay_once_over_all_shards() -> None:
    one, two, three = drawn(np.random.default_rng(0), 3)
    pool = FingerprintPool.of([np.array([one, two, one]), np.empty((0, 4), np.uint64), np.array([three, two, three])])
    assert [pool.exact_repeats(shard).tolist() for shard in range(3)] == [[2], [], [1, 2]]


def test_near_duplicates_equal_those_found_by_comparing_all_pairs() -> None:
    rng = np.random.default_rng(1)
    originals = drawn(rng, 300)
    copies = np.array([changed(rng, originals[rng.integers(300)], int(rng.integers(0, 12))) for _ in range(200)])
    everything = np.concatenate([originals, copies])[rng.permutation(500)]
    pool = FingerprintPool.of([everything[:200], everything[200:]])
    differing = np.bitwise_count(everything[:, None] ^ everything[None]).sum(axis=2)
    either = np.bitwise_count(everything[:, None] | everything[None]).sum(axis=2)
    alike = np.tril(differing <= MAX_DIFFERENCE * either, -1).any(axis=1)
    assert 150 < alike.sum() < 250
    found = np.concatenate([pool.near_repeats(0), 200 + pool.near_repeats(1)])
    assert found.tolist() == np.flatnonzero(alike).tolist()


@pytest.mark.parametrize("steps", [0, FEW_BITS - 1])
def test_nearly_empty_images_match_no_image(steps: int) -> None:
    bits = np.packbits(np.arange(256) < steps).view(np.uint64)
    assert FingerprintPool.of([np.array([bits, bits])]).near_repeats(0).tolist() == []


def test_shards_without_images_have_no_repeats() -> None:
    pool = FingerprintPool.of([np.empty((0, 4), np.uint64)])
    assert pool.near_repeats(0).tolist() == pool.exact_repeats(0).tolist() == []
