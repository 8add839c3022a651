"""The probe's solver against scipy, the delta-0 identity, nested draws and skipped shots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint, minimize

from diht_k8s.stages.evaluate import few_shot
from diht_k8s.stages.evaluate.few_shot import Problems, _lipschitz, _momentum, cross_validated, few_shot_curve, solve


def problem(images: int = 24, size: int = 5, classes: int = 3, seed: int = 0, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, size))
    features = centres[labels] + noise * rng.normal(size=(images, size))
    return features / np.linalg.norm(features, axis=1, keepdims=True), labels, centres


def one(images: int, radius: float, bias: float, penalty: float = 0.0) -> Problems:
    return Problems(np.ones((1, images)), np.array([radius]), np.array([bias]), np.array([penalty]))


def loss(parameters, features, labels, prior, penalty=0.0):
    size, classes = features.shape[1], prior.shape[1]
    weights, bias = parameters[: size * classes].reshape(size, classes), parameters[size * classes :]
    logits = features @ weights + bias + prior
    entropy = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    return entropy.mean() + penalty / 2 * (weights**2).sum()


def constrained_by_scipy(features, labels, prior, radius, bias_radius):
    inner = features.shape[1] * prior.shape[1]
    balls = [
        NonlinearConstraint(lambda p: (p[:inner] ** 2).sum(), 0, radius**2),
        NonlinearConstraint(lambda p: (p[inner:] ** 2).sum(), 0, bias_radius**2),
    ]
    start = np.zeros(inner + prior.shape[1])
    return minimize(
        loss,
        start,
        (features, labels, prior),
        method="SLSQP",
        constraints=balls,
        options={"ftol": 1e-14, "maxiter": 500},
    )


@pytest.mark.parametrize(("radius", "bias_radius"), [(0.5, 0.1), (3.0, 1.0)])
def test_solve_when_radius_binds_reaches_scipys_optimum(radius: float, bias_radius: float) -> None:
    features, labels, centres = problem()
    prior = features @ centres.T
    found = solve(features, labels, prior, one(24, radius, bias_radius))
    ours = np.concatenate([found.weights_PDC[0].ravel(), found.bias_PC[0]])
    reference = constrained_by_scipy(features, labels, prior, radius, bias_radius)
    assert found.residual <= 1e-8
    assert loss(ours, features, labels, prior) == pytest.approx(reference.fun, abs=1e-6)
    assert np.linalg.norm(found.weights_PDC) <= radius * (1 + 1e-12)
    assert ours == pytest.approx(reference.x, abs=2e-3)


def test_solve_when_penalised_reaches_scipys_optimum() -> None:
    features, labels, _ = problem()
    prior = np.zeros((24, 3))
    found = solve(features, labels, prior, one(24, np.inf, np.inf, 0.01))
    reference = minimize(loss, np.zeros(18), (features, labels, prior, 0.01), tol=1e-12)
    ours = np.concatenate([found.weights_PDC[0].ravel(), found.bias_PC[0]])
    assert loss(ours, features, labels, prior, 0.01) == pytest.approx(reference.fun, abs=1e-9)


def test_solve_when_problems_are_batched_equals_each_alone() -> None:
    features, labels, centres = problem()
    prior = features @ centres.T
    counts = np.ones((2, 24))
    counts[1, :6] = 0
    both = solve(features, labels, prior, Problems(counts, np.array([0.5, 2.0]), np.array([0.0, 1.0]), np.zeros(2)))
    alone = solve(features[6:], labels[6:], prior[6:], one(18, 2.0, 1.0))
    assert both.weights_PDC[1] == pytest.approx(alone.weights_PDC[0], abs=1e-6)


def test_step_when_taken_is_as_long_as_the_curvature_allows() -> None:
    features, _, _ = problem()
    shares = np.random.default_rng(2).random((2, 24))
    shares /= shares.sum(axis=1, keepdims=True)
    extended = np.column_stack([features, np.ones(24)])
    curvature = [np.linalg.eigvalsh(extended.T @ np.diag(share) @ extended).max() / 2 for share in shares]
    assert _lipschitz(features, shares, np.array([0.0, 2.0])) == pytest.approx([curvature[0], curvature[1] + 2])


def test_momentum_when_a_step_went_uphill_starts_again() -> None:
    moved, still = np.full((2, 1, 1), 0.1), np.zeros((2, 1))
    uphill = moved * np.array([1.0, -1.0])[:, None, None]
    momentum, pull = _momentum(np.full(2, 5.0), (uphill, still), (moved, still))
    golden, later = (1 + np.sqrt(5)) / 2, (1 + np.sqrt(101)) / 2
    assert momentum == pytest.approx([golden, later])
    assert pull == pytest.approx([0.0, 4 / later])


def test_solve_when_delta_is_zero_leaves_the_zero_shot_classifier_exactly() -> None:
    features, labels, centres = problem()
    found = solve(features, labels, features @ centres.T, one(24, 0.0, 0.0))
    assert not found.weights_PDC.any()
    assert not found.bias_PC.any()


def curve(**changes):
    features, labels, centres = problem(images=90, size=12, seed=3, noise=2.0)
    arguments = {
        "features_ND": features.astype(np.float32),
        "labels_N": labels,
        "zero_shot_CD": centres.astype(np.float32),
        "shots": [1, 4, 64],
        "rngs": [np.random.default_rng(seed) for seed in (0, 1)],
        "class_names": ["a", "b", "c"],
    }
    return few_shot_curve(**(arguments | changes))


def test_curve_when_a_class_lacks_images_skips_those_shots_and_says_which() -> None:
    result = curve()
    assert [(draw.shots, draw.seed) for draw in result.draws] == [(1, 0), (4, 0), (1, 1), (4, 1)]
    assert result.skipped == {64: "class 'a' has only 30 images"}
    empty = curve(labels_N=np.zeros(90, dtype=np.int64))
    assert (empty.draws, empty.skipped[1]) == ([], "class 'b' has only 0 images")
    assert result.test_images == 90 - 24  # four shots and four that choose, of each of three classes
    assert max(draw.residual for draw in result.draws) <= 1e-8


def test_grids_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[4] / "docs" / "method.md").read_text()
    (told,) = re.findall(
        r"radius ([0-9., ]+) times .*?, bias radius ([0-9., ]+) logits, penalties ([0-9., ]+)[;:|]", text
    )
    grids = [tuple(float(value) for value in part.split(",")) for part in told]
    assert grids == [few_shot.DELTAS, few_shot.BIAS_DELTAS, few_shot.PENALTIES]


def test_radius_is_in_units_of_the_zero_shot_weights_root_mean_square_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[tuple[float, float]] = []

    def spy(features, labels, prior, problems: Problems, **options: Any):
        radii.extend(zip(problems.radius_P.tolist(), problems.bias_radius_P.tolist(), strict=True))
        return solve(features, labels, prior, problems, **options)

    monkeypatch.setattr(few_shot, "DELTAS", (0.3,))
    monkeypatch.setattr(few_shot, "BIAS_DELTAS", (0.1,))
    monkeypatch.setattr(few_shot, "solve", spy)
    zero_shot = np.random.default_rng(5).normal(size=(3, 12)).astype(np.float32) * 7
    curve(shots=[1], zero_shot_CD=zero_shot)
    norm = np.sqrt(np.mean(np.linalg.norm(zero_shot.astype(np.float64), axis=1) ** 2))
    bounded = [pair for pair in radii if np.isfinite(pair[0])]
    assert bounded == [(pytest.approx(0.3 * norm), 0.1)] * 4  # the choice and the probe, of two draws


def test_choice_when_it_is_made_on_the_shots_has_four_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    folds: list[list[int]] = []

    def spy(features, labels, prior, folds_S, settings):
        folds.append(np.bincount(folds_S).tolist())
        return cross_validated(features, labels, prior, folds_S, settings)

    monkeypatch.setattr(few_shot, "cross_validated", spy)
    curve(shots=[16])
    assert folds == [[12] * 4] * len(folds)
    assert folds


def test_pull_of_a_trained_model_may_be_weak() -> None:
    """Penalties are on weights, and zero-shot weights are as long as the logit scale, here 100."""
    rng = np.random.default_rng(0)
    centres, common, labels = unit(rng.normal(size=(4, 16))), unit(rng.normal(size=16)), np.repeat(np.arange(4), 20)
    features = unit(2 * common + 0.4 * centres[labels] + 0.15 * rng.normal(size=(80, 16)))
    prior = 100 * unit(2 * common + 0.4 * unit(centres + 0.6 * rng.normal(size=(4, 16))))
    rngs = [np.random.default_rng(0)]
    (draw,) = few_shot_curve(
        features.astype(np.float32), labels, prior.astype(np.float32), [8], rngs, list("abcd")
    ).draws
    assert draw.pull_penalty < 1e-4


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_curve_when_images_are_scarce_chooses_on_the_shots_and_says_so() -> None:
    result = curve(shots=[4, 16])  # thirty images of each class: 2 x 16 leave none to test on
    assert {draw.shots: draw.held_out for draw in result.draws} == {4: True, 16: False}
    assert result.test_images == 90 - 48
    assert curve(shots=[12]).test_images == 90 - 3 * 24  # twelve train, twelve choose, six test


def test_choice_when_held_out_images_agree_with_the_shots_lets_the_probe_move_with_one_shot() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 3
    features = np.eye(3)[labels] + 0.05 * rng.normal(size=(120, 3))
    wrong = np.roll(np.eye(3), 1, axis=0) * 2
    draws = curve(features_ND=features, labels_N=labels, zero_shot_CD=wrong, shots=[1]).draws
    assert all(draw.zero_shot < 0.1 and draw.delta > 0 and draw.probe > 0.9 and draw.pull > 0.9 for draw in draws)


def test_choice_when_shots_can_be_learned_by_heart_looks_at_other_images() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 200)) / 14
    draws = curve(
        features_ND=features,
        labels_N=rng.permutation(np.arange(400) % 2),
        zero_shot_CD=np.full((2, 200), 0.7),  # says the same of both classes
        shots=[32],
        class_names=["a", "b"],
    ).draws
    assert all(draw.delta <= 0.1 for draw in draws)  # the shots themselves fit best in the widest ball


def test_held_out_losses_when_written_by_hand_are_the_same() -> None:
    features, labels, centres = problem()
    prior, settings = features @ centres.T, np.array([[0.0, 0.0, 0.0], [0.5, 0.1, 0.0]])
    shots, rest = slice(0, 12), slice(12, 24)
    found = few_shot.held_out_losses(
        features[shots], labels[shots], prior[shots], (features[rest], labels[rest], prior[rest]), settings
    )
    still = np.zeros(features.shape[1] * 3 + 3)
    assert found[0] == pytest.approx(loss(still, features[rest], labels[rest], prior[rest]))
    reference = constrained_by_scipy(features[shots], labels[shots], prior[shots], 0.5, 0.1)
    assert found[1] == pytest.approx(loss(reference.x, features[rest], labels[rest], prior[rest]), abs=1e-3)


def test_curve_when_validation_images_select_tests_on_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, overlaps, sizes = few_shot._draw, list[bool](), list[int]()

    def spy(task, tests_TD, *rest, **options):
        tests_TR = tests_TD @ task.basis_DR
        seen_VR = task.shots_SR if task.validation is None else np.concatenate([task.shots_SR, task.validation[0]])
        overlaps.append(any(np.abs(tests_TR - row_R).max(axis=1).min() < 1e-9 for row_R in seen_VR))
        sizes.append(len(tests_TD))
        return draw(task, tests_TD, *rest, **options)

    monkeypatch.setattr(few_shot, "_draw", spy)
    result = curve(shots=[1, 4])
    assert overlaps == [False] * 4
    assert sizes == [result.test_images] * 4


def test_scratch_probe_when_the_zero_shot_weights_change_stays_the_same() -> None:
    other_weights = np.random.default_rng(5).normal(size=(3, 12)).astype(np.float32) * 3
    first = curve(shots=[1, 4], rngs=[np.random.default_rng(0)])
    other = curve(shots=[1, 4], rngs=[np.random.default_rng(0)], zero_shot_CD=other_weights)
    assert [(draw.scratch, draw.penalty) for draw in first.draws] == [
        (draw.scratch, draw.penalty) for draw in other.draws
    ]
    assert [draw.zero_shot for draw in first.draws] != [draw.zero_shot for draw in other.draws]


def test_cross_validation_when_labels_are_random_sees_that_nothing_was_learned() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(24, 40)), rng.permutation(np.arange(24) % 3)
    settings = np.array([[0.0, 0.0, 0.0], [50.0, 1.0, 0.0]])
    fixed, free = cross_validated(features, labels, np.zeros((24, 3)), np.arange(24) % 4, settings)
    assert fixed == pytest.approx(np.log(3))
    assert free > 1.5 * fixed
