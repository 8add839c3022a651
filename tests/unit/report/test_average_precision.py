"""Mean average precision against a second script of VOC2007's definition and scikit-learn, and its paired
difference.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.average_precision import (
    IGNORED,
    average_precisions,
    mean_average_precisions,
)
from diht_k8s.report.comparison import NOT_PAIRED, differences_of
from diht_k8s.report.per_image import PerImage, read_per_image, write_per_image

Array = np.ndarray


def voc2007(scores: Array, truth: Array) -> Fraction:
    """VOC2007's definition in exact numbers, with one threshold for equal scores."""
    counted = [(score, right) for score, right in zip(scores.tolist(), truth.tolist(), strict=True) if right != IGNORED]
    wanted = sum(right == 1 for _, right in counted)
    points: list[tuple[Fraction, Fraction]] = []
    for threshold in {score for score, _ in counted}:
        named = [right for score, right in counted if score >= threshold]
        found = sum(right == 1 for right in named)
        points.append((Fraction(found, wanted), Fraction(found, len(named))))
    levels = [Fraction(tenth, 10) for tenth in range(11)]
    return sum((max(p for recall, p in points if recall >= level) for level in levels), Fraction()) / 11


def drawn(seed: int, values: int, classes: int = 3) -> tuple[Array, Array]:
    """[C, N] scores of `values` different values (0: no two are equal) and truth; each class has an image."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(2, 40))
    scores = rng.integers(0, values, (classes, images)).astype(float) if values else rng.normal(size=(classes, images))
    truth = rng.choice([1.0, 0.0, IGNORED], (classes, images), p=[0.3, 0.6, 0.1])
    truth[np.arange(classes), rng.integers(0, images, classes)] = 1
    return scores, truth


@pytest.mark.parametrize("values", [0, 1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(8))
def test_precision_of_random_scores_is_that_of_vocs_definition_and_of_scikit_learn(seed: int, values: int) -> None:
    scores, truth = drawn(seed, values)
    found = average_precisions(scores, truth)[0]
    for row, (eleven, everything) in enumerate(found):
        assert eleven == pytest.approx(float(voc2007(scores[row], truth[row])), abs=1e-12)
        counted = truth[row] != IGNORED
        assert everything == pytest.approx(
            average_precision_score(truth[row][counted], scores[row][counted]), abs=1e-12
        )
    assert mean_average_precisions(scores, truth)[0] == pytest.approx(found.mean(axis=0))


@pytest.mark.parametrize(
    ("scores", "truth", "eleven", "everything"),
    [
        ([3, 2, 1], [1, 1, 0], 1.0, 1.0),
        ([3, 2, 1], [0, 1, 1], 2 / 3, (1 / 2 + 2 / 3) / 2),
        (
            [4, 3, 2, 1],
            [1, 0, 0, 1],
            (6 * 1 + 5 * 1 / 2) / 11,
            3 / 4,
        ),  # of recalls 0 to 0.5 the first image's precision counts
        ([3, 2, 1], [IGNORED, 1, 0], 1.0, 1.0),
        ([5, 5, 5, 5], [1, 0, 0, 0], 1 / 4, 1 / 4),
    ],
    ids=["all first", "one before", "higher precision at a lower recall", "difficult", "all equal"],
)
def test_precision_of_a_worked_case(scores: list[float], truth: list[float], eleven: float, everything: float) -> None:
    found = average_precisions(np.array([scores], dtype=float), np.array([truth], dtype=float))[0, 0]
    assert found == pytest.approx([eleven, everything])


def test_recall_of_3_in_10_reaches_the_level_0_3() -> None:
    """0.1 * 3 is above 0.3 in binary numbers, and the development kit leaves that level to the next image."""
    truth = np.array([[1.0] * 3 + [0.0] * 20 + [1.0] * 7])
    scores = -np.arange(30.0)[None]
    assert average_precisions(scores, truth)[0, 0, 0] == pytest.approx((4 * 1 + 7 * 1 / 3) / 11)


@pytest.mark.parametrize("values", [0, 4])
def test_resample_counts_an_image_as_often_as_it_is_drawn(values: int) -> None:
    for seed in range(20):
        scores, truth = drawn(seed, values)
        times = np.random.default_rng(seed).integers(0, 3, (20, scores.shape[1]))
        found = average_precisions(scores, truth, times.astype(float))
        for row, each in enumerate(times):
            repeated = np.repeat(np.arange(len(each)), each)
            alone = average_precisions(scores[:, repeated], truth[:, repeated])[0]
            np.testing.assert_allclose(found[row], alone, atol=1e-12)


def test_class_without_an_image_has_no_precision_and_does_not_count_in_the_mean() -> None:
    scores, truth = np.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 0.0], [0.0, IGNORED]])
    assert average_precisions(scores, truth)[0, :, 0] == pytest.approx([0.5, np.nan, np.nan], nan_ok=True)
    assert mean_average_precisions(scores, truth)[0] == pytest.approx([0.5, 0.5])
    assert mean_average_precisions(scores, np.zeros((3, 2)))[0].tolist() == [0.0, 0.0]


NAMES = ("11-point mAP", "all-point mAP")


def run(seed: int, scores: Array, truth: Array, name: str = "cat") -> tuple[dict[str, Any], dict[str, PerImage]]:
    """A report with one benchmark, and its images."""
    heads = [{"name": name, "value": 0.5, "interval": [0.4, 0.6], "chance": 0.1} for name in NAMES]
    report = {"run": {"seed": seed}, "benchmarks": [{"name": "voc", "type": "MultiLabel", "scores": heads}]}
    uids, ranked = [f"u{row}" for row in range(scores.shape[1])], {f"0 {name}": (scores[0], truth[0])}
    return report, {"voc": PerImage(uids, ["0.tar"] * len(uids), uids, rankings=ranked)}


def test_comparison_of_runs_pairs_the_precisions_over_images_and_seeds() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((1, 300)) < 0.2).astype(float)
    first, second = ([rng.normal(size=truth.shape) + gain * truth for _ in range(5)] for gain in (0.0, 2.0))
    found = differences_of(*([run(seed, each, truth) for seed, each in enumerate(side)] for side in (first, second)))
    for row, name in enumerate(NAMES):
        ours, theirs = (
            np.mean([mean_average_precisions(each, truth)[0, row] for each in side]) for side in (first, second)
        )
        assert found["voc", name]["value"] == pytest.approx(theirs - ours)
        assert found["voc", name]["p"] < 0.01


@pytest.mark.parametrize("change", ["truth", "class", "task"])
def test_comparison_of_images_with_other_classes_is_none(change: str) -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random((1, 30)) < 0.5).astype(float)
    scores = rng.normal(size=truth.shape)
    other = run(0, scores, 1 - truth if change == "truth" else truth, "dog" if change == "class" else "cat")
    if change == "task":
        images = other[1]["voc"]
        other[1]["voc"] = replace(images, rankings={}, figures=dict.fromkeys(NAMES, (scores[0], truth[0])))
    for sides in ([run(0, scores, truth)], [other]), ([other], [run(0, scores, truth)]):
        assert differences_of(*sides)["voc", NAMES[0]] == {"why": NOT_PAIRED}


def test_file_of_images_keeps_scores_and_truth_of_each_class_in_any_order(tmp_path: Path) -> None:
    scores, truth = drawn(5, 0, 2)
    uids = [f"u{number}" for number in range(scores.shape[1])]
    ranked = {name: (scores[number], truth[number]) for number, name in enumerate(("0 cat", "1 cat"))}
    write_per_image(Storage(), f"{tmp_path}/a.parquet", PerImage(uids, uids, uids, rankings=ranked))
    found = read_per_image(Storage(), f"{tmp_path}/a.parquet")
    assert found is not None
    assert found.figures == {}
    other = found.in_order_of(uids[::-1])
    assert other is not None
    row, name = 1, "1 cat"
    assert [part.tolist() for part in found.rankings[name]] == [scores[row].tolist(), truth[row].tolist()]
    assert [part.tolist() for part in other.rankings[name]] == [scores[row][::-1].tolist(), truth[row][::-1].tolist()]
