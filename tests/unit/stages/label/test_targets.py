"""Repeat factors and soft targets against independent float64 versions."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from diht_k8s.stages.label.targets import concatenated, encode, epoch_order, repeat_factors
from diht_k8s.stages.label.vocabulary import Concepts

CONCEPTS = Concepts(("a", "b", "c", "d"), (1, 1, 1, 1))
NAMES = [["a"], ["a", "b"], [], ["unknown"], ["c", "a", "b"], ["a"], ["d", "a"]]
PRESENT = [[0], [0, 1], [], [], [0, 1, 2], [0], [0, 3]]


def test_encode_when_names_are_unknown_then_left_out() -> None:
    targets = encode(NAMES, CONCEPTS)
    rows = np.split(targets.class_ids, targets.offsets[1:-1])
    assert [row.tolist() for row in rows] == PRESENT
    assert targets.counts().tolist() == [5, 2, 1, 1]
    assert targets.image_ids().tolist() == [0, 1, 1, 4, 4, 4, 5, 6, 6]


@pytest.mark.parametrize("rows", [[0, 1, 2], [6, 4, 4], [2, 3], []], ids=["head", "repeated", "none-present", "empty"])
def test_soft_when_m_concepts_are_present_then_each_has_one_mth(rows: list[int]) -> None:
    soft_BC = encode(NAMES, CONCEPTS).soft(np.array(rows, np.int64)).numpy()
    expected = [[1 / len(PRESENT[row]) if number in PRESENT[row] else 0.0 for number in range(4)] for row in rows]
    np.testing.assert_allclose(soft_BC, np.array(expected).reshape(len(rows), 4), atol=1e-7)


def test_repeat_factors_when_computed_then_equal_the_definition() -> None:
    frequency = [sum(number in row for row in PRESENT) / len(PRESENT) for number in range(4)]
    limit = statistics.median(frequency)
    expected = [max((max(1.0, math.sqrt(limit / frequency[c])) for c in row), default=0.0) for row in PRESENT]
    np.testing.assert_allclose(repeat_factors(encode(NAMES, CONCEPTS)), expected, rtol=1e-12)


def test_epoch_order_when_drawn_often_then_each_image_comes_r_times_on_average() -> None:
    factor_N = np.array([0.0, 1.0, 1.3, 2.5])
    rng = np.random.default_rng(0)
    counts = np.array([np.bincount(epoch_order(factor_N, rng), minlength=4) for _ in range(4000)])
    assert counts[:, 0].max() == 0
    assert (counts[:, 1] == 1).all()
    assert set(counts[:, 3].tolist()) == {2, 3}
    np.testing.assert_allclose(counts.mean(axis=0), factor_N, atol=0.03)


def test_join_when_images_are_encoded_apart_then_equals_encoding_all() -> None:
    parts = concatenated([encode(NAMES[:1], CONCEPTS), encode(NAMES[1:1], CONCEPTS), encode(NAMES[1:], CONCEPTS)])
    whole = encode(NAMES, CONCEPTS)
    np.testing.assert_array_equal(parts.class_ids, whole.class_ids)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
    assert parts.classes == whole.classes
