"""Images of two evaluations in one order; a difference is found where there is one, and seldom where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report import per_image
from diht_k8s.report.per_image import (
    PerImage,
    holm,
    paired_differences,
    read_per_image,
    verdict,
    write_per_image,
)


def images(uids: list[str]) -> PerImage:
    hits = np.arange(len(uids), dtype=np.float64)
    return PerImage(uids, ["0.tar"] * len(uids), list(uids), {"top-1": (hits, np.ones(len(uids)))})


@pytest.mark.parametrize(
    ("own", "wanted", "hits"),
    [
        (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
        (["a", "b", "a"], ["a", "b", "a"], [0, 1, 2]),
        (["a", "b", "a"], ["b", "a", "a"], None),
        (["a", "b"], ["a", "c"], None),
        (["a", "b"], ["a"], None),
    ],
    ids=["another order", "copies in the same places", "copies in others", "other images", "fewer images"],
)
def test_order_when_uids_are_given_is_theirs_or_none(own: list[str], wanted: list[str], hits: list[int] | None) -> None:
    found = images(own).in_order_of(wanted)
    assert (None if found is None else found.figures["top-1"][0].tolist()) == hits
    assert found is None or found.uids == wanted


def test_order_when_it_is_another_keeps_weights_shards_and_texts_with_their_images() -> None:
    hits, weights = np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 5.0])
    found = PerImage(["a", "b", "c"], ["0", "1", "2"], ["x", "y", "z"], {"R@1": (hits, weights)}).in_order_of(
        ["c", "a", "b"]
    )
    assert found is not None
    assert (found.shards, found.texts) == (["2", "0", "1"], ["z", "x", "y"])
    assert [part.tolist() for part in found.figures["R@1"]] == [[2.0, 0.0, 1.0], [5.0, 3.0, 4.0]]


@pytest.mark.parametrize("part", [0, 1], ids=["a hit", "a weight"])
def test_file_whose_hits_are_not_finite_is_damaged(tmp_path: Path, part: int) -> None:
    found = images(["a", "b"])
    write_per_image(Storage(), f"{tmp_path}/a.parquet", found)
    assert read_per_image(Storage(), f"{tmp_path}/a.parquet") is not None
    found.figures["top-1"][part][1] = np.nan
    write_per_image(Storage(), f"{tmp_path}/a.parquet", found)
    with pytest.raises(DataError, match="a hit is not finite"):
        read_per_image(Storage(), f"{tmp_path}/a.parquet")


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
    monkeypatch.setattr(per_image, "RESAMPLES", 2000)
    rng = np.random.default_rng(0)
    first, second = hits((pairs, 1, images), rate, gain, rng)
    differences = paired_differences(first, second, np.ones((pairs, images)), rng)
    return sum(verdict(each.value, each.p) != "not clearly different" for each in differences) / pairs


@pytest.mark.parametrize(("images", "rate"), [(100, 0.3), (500, 0.1), (2000, 0.3)])
def test_difference_when_there_is_none_is_found_in_at_most_6_5_percent_of_2000_pairs(
    images: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0.02 <= found(images, rate, 0.0, monkeypatch, 2000) <= 0.065
    assert found(images, rate, 5 * (0.25 / images) ** 0.5, monkeypatch) >= 0.8, "where there is one it is found"


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


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("same_seeds", [True, False])
def test_difference_of_few_seeds_that_scatter_alone_is_rarely_found(
    seeds: int, same_seeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_image, "RESAMPLES", 400)
    rng, pairs = np.random.default_rng(0), 100
    sides = 0.5 + 0.02 * rng.standard_normal((pairs, 2, 1, seeds, 1)) + np.zeros(10)
    found = [
        paired_differences(*each, np.ones((1, 10)), rng, same_seeds=same_seeds)[0].p <= per_image.ALPHA
        for each in sides
    ]
    assert np.mean(found) <= 0.12


def test_difference_of_eight_seeds_that_scatter_alone_is_found_as_often_as_the_level_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(per_image, "RESAMPLES", 2000)
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
    for level in (0.05, 0.05 / 6):
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
