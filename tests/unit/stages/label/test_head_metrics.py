"""Calibration of the heads, and what labels say that captions do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.stages.label import head_metrics
from diht_k8s.stages.label.head_metrics import CALIBRATION_EDGES, MIN_EXAMPLES, average_precision, calibration
from diht_k8s.stages.label.heads import Head, TrainingImages
from diht_k8s.stages.label.targets import encode
from diht_k8s.stages.label.vocabulary import Concepts

CONCEPTS = Concepts(("a", "b", "c"), (1, 1, 1))


@pytest.mark.parametrize("digits", [1, 7], ids=["many-ties", "hardly-any"])
def test_average_precision_when_compared_then_equals_scikit_learns(digits: int) -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(digits)
    present = rng.random((400, 6)) < [0.5, 0.2, 0.1, 0.06, 0.06, 0.01]
    scores = (rng.random((400, 6)) + present).round(digits).astype(np.float32)
    precision, frequency = average_precision(scores, present)
    for number in range(6):
        if present[:, number].sum() >= MIN_EXAMPLES:
            expected = average_precision_score(present[:, number], scores[:, number])
            assert precision[number] == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(precision[number])
    np.testing.assert_allclose(frequency, present.mean(axis=0))


def test_calibration_when_compared_then_equals_the_definition_entry_by_entry() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), size=3000).astype(np.float32)
    target = rng.dirichlet(np.full(5, 0.2), size=3000).astype(np.float32)
    chosen = rng.random(3000) < 0.7
    found = calibration(probabilities, target, chosen)
    upper = [*CALIBRATION_EDGES[1:], 2.0]
    error = 0.0
    expected = []
    for low, high in zip(CALIBRATION_EDGES, upper, strict=True):
        inside = (probabilities >= np.float32(low)) & (probabilities < np.float32(high)) & chosen[:, None]
        if inside.any():
            p, t = probabilities[inside].astype(float), target[inside].astype(float)
            expected.append([low, int(inside.sum()), p.mean(), t.mean()])
            error += abs(p.sum() - t.sum())
    np.testing.assert_allclose(found["bins"], expected, atol=1e-5)
    assert found["expected_error"] == pytest.approx(error / probabilities[chosen].sum(), abs=1e-4)


def test_calibration_when_no_image_counts_then_there_is_no_error_to_tell() -> None:
    found = calibration(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), np.zeros(2, bool))
    assert found == {"expected_error": None, "bins": []}


@pytest.mark.parametrize(("folds", "most"), [(3, 10**9), (3, 40), (1, 10**9)], ids=["folds", "few", "slice"])
def test_measure_when_asked_then_takes_images_that_the_heads_did_not_see(
    folds: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each head knows the images of the other folds by heart and says class 1 for those of its own."""
    monkeypatch.setattr(head_metrics, "MAX_ENTRIES", most)
    fold_N = torch.arange(60) % 3 if folds == 3 else (torch.arange(60) % 20).clamp(max=1)
    asked: list[int] = []

    class Asked(Head):
        def probabilities(self, features_BD: Tensor, fold_B: Tensor) -> Tensor:
            asked.extend(fold_B.tolist())
            return torch.tensor([[0.4, 0.6]]).expand(len(fold_B), 2)

        def all_data_probabilities(self, features_BD: Tensor) -> Tensor:
            return torch.tensor([[0.9, 0.1]]).expand(len(features_BD), 2)

    concepts = Concepts(("a", "b"), (1, 1))
    images, targets = TrainingImages(torch.zeros(60, 1), fold_N, folds), encode([["a"]] * 60, concepts)
    figures = head_metrics.head_figures(Asked(torch.zeros(1, 2, 1), torch.zeros(1, 2)), images, targets, concepts)
    assert figures["top_label_in_caption"] == {"never_seen": 0.0, "seen_in_training": 1.0, "commonest_concept": 1.0}
    assert figures["pictures"] == len(asked) == min({3: 60, 1: 3}[folds], most // 2)
    assert set(asked) <= ({0, 1, 2} if folds == 3 else {0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["unseen", "seen"])
def test_figures_of_heads_whose_probabilities_are_not_finite_are_refused(part: str, value: float) -> None:
    class Broken(Head):
        def probabilities(self, features_BD: Tensor, fold_B: Tensor) -> Tensor:
            return torch.full((len(fold_B), 2), value if part == "unseen" else 0.5)

        def all_data_probabilities(self, features_BD: Tensor) -> Tensor:
            return torch.full((len(features_BD), 2), value if part == "seen" else 0.5)

    concepts = Concepts(("a", "b"), (1, 1))
    images, targets = TrainingImages(torch.zeros(60, 1), torch.arange(60) % 3, 3), encode([["a"]] * 60, concepts)
    with pytest.raises(DataError, match="the heads of 2 concepts are not finite"):
        head_metrics.head_figures(Broken(torch.zeros(1, 2, 1), torch.zeros(1, 2)), images, targets, concepts)
