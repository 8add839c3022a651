"""Probes of the image tower: few shots and half of a class' images, on the same test images in every model."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ablation.probes import DRAWS, probe


def features(classes: int, size: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    classes_N = np.repeat(np.arange(classes), size)
    centres = rng.standard_normal((classes, 16))
    values = signal * centres[classes_N] + rng.standard_normal((classes * size, 16))
    order = rng.permutation(len(classes_N))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)[order], classes_N[order]


@pytest.mark.parametrize(
    ("signal", "low", "high"), [(0.0, 0.05, 0.45), (3.0, 0.95, 1.0)], ids=["noise is chance", "signal is found"]
)
def test_probe_when_features_tell_classes_or_nothing_then_finds_them_or_is_at_chance(
    signal: float, low: float, high: float
) -> None:
    for hits_N, tested_N in probe(*features(4, 20, signal)).values():
        assert low <= hits_N.sum() / tested_N.sum() <= high


def test_probe_when_it_has_half_of_the_images_then_finds_more_than_with_five_of_each_class() -> None:
    found = {name: hits_N.sum() for name, (hits_N, _) in probe(*features(4, 40, 0.8)).items()}
    assert found["linear"] > found["few-shot"]


def test_probe_when_drawn_then_tests_the_same_images_in_both_probes_and_never_one_that_it_saw() -> None:
    found = probe(*features(3, 12, 1.0))
    (few_N, tested_N), (linear_N, also_N) = found["few-shot"], found["linear"]
    np.testing.assert_array_equal(tested_N, also_N)
    assert tested_N.sum() == DRAWS * 3 * 6
    assert (few_N <= tested_N).all()
    assert (linear_N <= tested_N).all()
