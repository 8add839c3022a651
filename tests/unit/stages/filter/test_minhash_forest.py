"""Near-duplicates are found among candidates alone, and hardly any of them is missed."""

from __future__ import annotations

import numpy as np
import pytest

from diht_k8s.stages.filter import minhash_forest
from diht_k8s.stages.filter.fingerprints import FEW_BITS
from diht_k8s.stages.filter.minhash_forest import ROOTS, earlier_alike, earlier_equals, has_steps, permuted
from tests.unit.stages.filter.pools import alike_pairs, copies, drawn


def found(bits_N4: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce([earlier_alike(permuted(bits_N4), table) for table in range(ROOTS)])


@pytest.mark.parametrize("share", [0.06, 0.35, 0.6])
def test_near_duplicates_equal_those_found_by_comparing_all_pairs(share: float) -> None:
    rng = np.random.default_rng(1)
    originals = drawn(rng, 300, share)
    everything = np.concatenate([originals, copies(rng, originals[:200], 0.85)])[rng.permutation(500)]
    everything = everything[has_steps(everything)]
    alike = alike_pairs(everything)
    assert 100 < alike.sum() < 250
    assert found(everything).tolist() == alike.tolist()


@pytest.mark.parametrize(("share", "least"), [(0.1, 0.99), (0.35, 0.98)])
def test_copies_at_the_limit_of_similarity_are_hardly_missed_in_a_large_pool(share: float, least: float) -> None:
    rng = np.random.default_rng(2)
    originals = drawn(rng, 60_000, share)
    planted = copies(rng, originals[:400], 0.76)
    assert found(np.concatenate([originals, planted]))[60_000:].mean() >= least


def test_groups_of_a_tree_are_small_and_hold_whole_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash_forest, "GROUP", 2)
    top = np.uint64(1) << np.uint64(4 * minhash_forest.DEPTH)
    keys = [0, 1, 16, 17, 17, 17, 1 << 39, top, top + np.uint64(5)]
    ends, large = minhash_forest._groups(np.array(keys, np.uint64))
    assert large == [(3, 6)]
    assert ends.tolist() == [2, 2, 3, 4, 5, 6, 7, 9, 9]


def test_crowd_of_nearly_equal_images_leaves_its_first() -> None:
    rng = np.random.default_rng(3)
    crowd = np.unique(copies(rng, np.repeat(drawn(rng, 1), 3000, axis=0), 0.97), axis=0)
    assert len(crowd) > 10 * minhash_forest.GROUP
    assert np.flatnonzero(~found(crowd)).tolist() == [0]


def test_large_group_of_equal_keys_is_compared_with_its_leaders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    one, two, three = drawn(rng, 3)
    crowd = np.concatenate(
        [[one], [two], copies(rng, np.array([one, two]), 0.9), [three], copies(rng, three[None], 0.9)]
    )
    numbers = np.arange(6)
    assert sorted(minhash_forest._followers(crowd, numbers).tolist()) == [2, 3, 5]
    monkeypatch.setattr(minhash_forest, "LEADERS", 2)
    assert sorted(minhash_forest._followers(crowd, numbers).tolist()) == [2, 3]


def test_images_with_all_steps_are_compared_without_overflow() -> None:
    full = np.full((2, 4), 2**64 - 1, np.uint64)
    full[1, 0] -= np.uint64(1)
    assert found(full).tolist() == [False, True]


def test_equal_images_but_the_first_are_found() -> None:
    one, two, three = drawn(np.random.default_rng(0), 3)
    assert earlier_equals(np.array([one, two, one, three, two, one])).tolist() == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]
    assert earlier_equals(np.empty((0, 4), np.uint64)).tolist() == []


@pytest.mark.parametrize(("steps", "enough"), [(0, False), (FEW_BITS - 1, False), (FEW_BITS, True)])
def test_nearly_empty_images_have_too_few_steps(steps: int, enough: bool) -> None:
    assert has_steps(np.packbits(np.arange(256) < steps).view(np.uint64)[None]).tolist() == [enough]
