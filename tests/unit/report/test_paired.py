"""A difference is found where there is one, and seldom where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from diht_k8s.report import paired_bootstrap
from diht_k8s.report.paired_bootstrap import holm, paired_differences, verdict

PAIRS = 300


def hits(
    shape: tuple[int, int, int], rate: float, gain: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """[F, 1, N] hits of two models that agree on half of the images, the second better by `gain`."""
    common, shared = rng.random(shape), rng.random(shape) < 0.5
    first = np.where(shared, common, rng.random(shape)) < rate
    second = np.where(shared, common, rng.random(shape)) < rate + gain
    return first.astype(float), second.astype(float)


def found(images: int, rate: float, gain: float, monkeypatch: pytest.MonkeyPatch, pairs: int = PAIRS) -> float:
    """Share of the pairs that are called different."""
    monkeypatch.setattr(paired_bootstrap, "RESAMPLES", 2000)
    rng = np.random.default_rng(0)
    first, second = hits((pairs, 1, images), rate, gain, rng)
    differences = paired_differences(first, second, np.ones((pairs, images)), rng)
    return sum(verdict(each.value, each.p) != "not clearly different" for each in differences) / pairs


@pytest.mark.parametrize(("images", "rate"), [(100, 0.3), (500, 0.1), (500, 0.5), (2000, 0.3)])
def test_difference_when_there_is_none_is_found_in_at_most_6_5_percent_of_2000_pairs(
    images: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0.02 <= found(images, rate, 0.0, monkeypatch, 2000) <= 0.065


def test_difference_when_five_points_are_planted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(2000, 0.3, 0.05, monkeypatch) >= 0.8


def test_difference_when_captions_of_an_image_share_its_fate_is_less_certain() -> None:
    """Five captions of an image count as one draw, not as five."""
    rng = np.random.default_rng(1)
    first, second = (rng.random((2, 1, 1, 200)) < 0.5).astype(float)
    single = paired_differences(first, second, np.ones((1, 200)), np.random.default_rng(0))[0]
    grouped = paired_differences(5 * first, 5 * second, np.full((1, 200), 5.0), np.random.default_rng(0))[0]
    assert (grouped.low, grouped.high) == (pytest.approx(single.low), pytest.approx(single.high))


@pytest.mark.parametrize(
    ("gains", "low", "high"),
    [
        ([0.0, 1.0], 0.5 - 0.5 * 2**0.5, 0.5 + 0.5 * 2**0.5),  # a quarter of the resamples has mean 0, a quarter mean 1
        ([0.0, 0.0, 3.0], 1 - 1.5**0.5, 1 + 2 * 1.5**0.5),  # 8 of 27 have mean 0, 1 of 27 mean 3
    ],
)
def test_interval_of_few_images_is_widened_to_their_unbiased_variance(
    gains: list[float], low: float, high: float
) -> None:
    """A resample of n has (n - 1) / n of the variance."""
    second = np.array([[gains]])
    found = paired_differences(np.zeros_like(second), second, np.ones((1, len(gains))), np.random.default_rng(0))[0]
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_difference_when_seeds_scatter_has_a_wider_interval() -> None:
    rng = np.random.default_rng(2)
    rates_S1 = np.array([[0.1], [0.3], [0.5], [0.7]])
    scattered = (rng.random((1, 4, 400)) < rates_S1).astype(float)
    even = (rng.random((1, 4, 400)) < 0.4).astype(float)
    weights, zero = np.ones((1, 400)), np.zeros((1, 4, 400))
    wide, narrow = (paired_differences(zero, each, weights, np.random.default_rng(0))[0] for each in (scattered, even))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    together = paired_differences(scattered, scattered, weights, np.random.default_rng(0), same_seeds=True)[0]
    assert (together.low, together.high, together.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("same_seeds", [True, False])
def test_difference_of_few_seeds_that_scatter_alone_is_rarely_found(
    seeds: int, same_seeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_bootstrap, "RESAMPLES", 400)
    rng, pairs = np.random.default_rng(0), 100
    sides = 0.5 + 0.02 * rng.standard_normal((pairs, 2, 1, seeds, 1)) + np.zeros(10)
    found = [
        paired_differences(*each, np.ones((1, 10)), rng, same_seeds=same_seeds)[0].p <= paired_bootstrap.ALPHA
        for each in sides
    ]
    assert np.mean(found) <= 0.12


@pytest.mark.parametrize("level", [0.05, 0.05 / 6])
def test_difference_of_eight_seeds_that_scatter_alone_is_found_as_often_as_the_level_says(
    level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired_bootstrap, "RESAMPLES", 2000)
    rng, figures, images = np.random.default_rng(0), 500, 50
    p_values = [
        each.p
        for _ in range(6)
        for each in paired_differences(
            np.zeros((figures, 8, images)),
            rng.standard_normal((figures, 8, 1)) + np.zeros(images),
            np.ones((figures, images)),
            rng,
            same_seeds=True,
        )
    ]
    assert np.mean(np.array(p_values) <= level) == pytest.approx(level, rel=0.35)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5], [0.5]), ([], []), ([0.9, 0.8], [1.0, 1.0])],
)
def test_holm_when_several_figures_are_tested_corrects_as_published(
    p_values: list[float], adjusted: list[float]
) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 1, 4)])
def test_difference_when_sides_do_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="weights"):
        paired_differences(np.zeros((1, 1, 4)), np.zeros(shape), np.ones((1, 4)), np.random.default_rng(0))


def test_difference_when_images_weigh_unlike_is_a_rate_of_each_resample() -> None:
    weights = np.array([[1.0, 1.0, 2.0, 5.0, 5.0, 9.0]])
    found = paired_differences(np.zeros((1, 1, 6)), weights[None], weights, np.random.default_rng(0))[0]
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))  # all of one side are right
