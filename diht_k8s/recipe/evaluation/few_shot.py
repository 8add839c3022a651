"""The few-shot probe that starts at the zero-shot classifier, beside a probe from scratch. Features in, curves out. Pure.

Paper (supplement), as others quote it: the classifier is W_0 + W with W_0 the zero-shot weights, and W may move only
inside a ball of radius delta, so that with one shot it does not fall below zero-shot; delta 0 is zero-shot. Our choices,
the paper's being unknown to us: Frobenius norm, the grids below, and delta chosen by cross-validated cross-entropy on
the shots alone, the smaller delta on a tie. (With one shot a class, a fold leaves whole classes without any, so that
delta 0 mostly wins there: one shot is too little to choose on.)

Shapes: N pictures, C classes, D features, S shots in all, R directions that the shots span, P problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluation.classification import balanced_accuracy
from diht_k8s.recipe.evaluation.probe_solver import Array, Problems, solve

DELTAS: Final = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Radius of W, in units of the root mean square norm of a class' zero-shot weights."""
BIAS_DELTAS: Final = (0.0, 0.1, 1.0)
"""Radius of the bias, in logits."""
PENALTIES: Final = (1e-3, 1e-2, 1e-1, 1.0)
"""Weight decay of the probe from scratch."""
FOLDS: Final = 4
_COARSE: Final = 1e-3
"""Tolerance while a grid is searched (1e-4 takes twice as long and chooses the same); the chosen problem is then solved to 1e-8."""
_COARSE_STEPS: Final = 500


@dataclass(frozen=True)
class Draw:
    """One draw of k shots per class, all three classifiers on the same test pictures (balanced accuracy)."""

    shots: int
    seed: int
    probe: float
    scratch: float
    zero_shot: float
    delta: float
    bias_delta: float
    penalty: float
    residual: float
    """fixed-point residual of the probe's solution."""


@dataclass(frozen=True)
class FewShotCurve:
    """All draws, and what was left out."""

    draws: list[Draw]
    skipped: dict[int, str]
    """shots -> why they were not run."""
    test_pictures: int
    """number of test pictures of each draw."""


def few_shot_curve(
    features_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    zero_shot_CD: NDArray[np.float32],
    shots: Sequence[int],
    rngs: Sequence[np.random.Generator],
    class_names: Sequence[str],
) -> FewShotCurve:
    """Draw shots, fit both probes, test on the pictures that no number of shots of that draw uses.

    Args:
        features_ND: unit features of the benchmark's pictures.
        labels_N: their classes.
        zero_shot_CD: W_0: class embeddings times the model's logit scale.
        shots: numbers of shots per class; each needs that many pictures of every class and one more to test on.
        rngs: one source of randomness for each seed.
        class_names: for messages.
    """
    counts_C = np.bincount(labels_N, minlength=len(class_names))
    scarce = int(counts_C.argmin())
    usable = sorted({k for k in shots if k < counts_C[scarce]})
    reason = f"class {class_names[scarce]!r} has only {counts_C[scarce]} pictures"
    skipped = {k: reason for k in sorted(shots) if k not in usable}
    if not usable:
        return FewShotCurve([], skipped, 0)
    features, zero_shot = features_ND.astype(np.float64), zero_shot_CD.astype(np.float64)
    draws: list[Draw] = []
    for seed, rng in enumerate(rngs):
        # nested shots and one test set: the curve over k then shows shots, not the luck of another test set
        order_CK = [rng.permutation(np.flatnonzero(labels_N == label)) for label in range(len(class_names))]
        test = np.concatenate([order[usable[-1] :] for order in order_CK])
        for k in usable:
            train = np.concatenate([order[:k] for order in order_CK])
            draws.append(_draw(features, labels_N, zero_shot, train, test, shots=k, seed=seed))
    return FewShotCurve(draws, skipped, len(labels_N) - usable[-1] * len(class_names))


def _draw(
    features_ND: Array,
    labels_N: NDArray[np.int64],
    zero_shot_CD: Array,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    shots: int,
    seed: int,
) -> Draw:
    # W lives in the span of the shots: gradients do, and a projection only scales. So solve there, in R <= S directions.
    basis_DR = np.linalg.qr(features_ND[train].T)[0]
    shots_SR, labels_S = features_ND[train] @ basis_DR, labels_N[train]
    prior_SC, prior_TC = features_ND[train] @ zero_shot_CD.T, features_ND[test] @ zero_shot_CD.T
    folds_S = np.arange(len(train)) % min(FOLDS, len(train))
    tests_TR = features_ND[test] @ basis_DR

    unit = float(np.sqrt((zero_shot_CD**2).sum() / len(zero_shot_CD)))
    delta, bias_delta = choose_radius(shots_SR, labels_S, prior_SC, folds_S, unit)
    radius = Problems(np.ones((1, len(train))), np.array([delta * unit]), np.array([bias_delta]), np.zeros(1))
    probe = solve(shots_SR, labels_S, prior_SC, radius)
    nothing_SC = np.zeros_like(prior_SC)
    penalty = choose_penalty(shots_SR, labels_S, nothing_SC, folds_S)
    scratch = solve(shots_SR, labels_S, nothing_SC, _unbounded(np.ones((1, len(train))), np.array([penalty])))

    def accuracy(scores_TC: Array) -> float:
        return balanced_accuracy(scores_TC.argmax(axis=1), labels_N[test])

    return Draw(
        shots=shots,
        seed=seed,
        probe=accuracy(prior_TC + tests_TR @ probe.weights_PDC[0] + probe.bias_PC[0]),
        scratch=accuracy(tests_TR @ scratch.weights_PDC[0] + scratch.bias_PC[0]),
        zero_shot=accuracy(prior_TC),
        delta=delta,
        bias_delta=bias_delta,
        penalty=penalty,
        residual=probe.residual,
    )


def choose_radius(
    features_SR: Array, labels_S: NDArray[np.int64], prior_SC: Array, folds_S: NDArray[np.int64], unit: float
) -> tuple[float, float]:
    """The radii (delta in units, delta_b) with the smallest cross-validated cross-entropy, the smallest on a tie."""
    grid = np.array(list(product(DELTAS, BIAS_DELTAS)))
    settings_G3 = np.column_stack([grid[:, 0] * unit, grid[:, 1], np.zeros(len(grid))])
    best = int(cross_validated(features_SR, labels_S, prior_SC, folds_S, settings_G3).argmin())
    return float(grid[best, 0]), float(grid[best, 1])


def choose_penalty(
    features_SR: Array, labels_S: NDArray[np.int64], prior_SC: Array, folds_S: NDArray[np.int64]
) -> float:
    """The weight decay with the smallest cross-validated cross-entropy."""
    settings_G3 = np.array([[np.inf, np.inf, penalty] for penalty in PENALTIES])
    return PENALTIES[int(cross_validated(features_SR, labels_S, prior_SC, folds_S, settings_G3).argmin())]


def cross_validated(
    features_SR: Array, labels_S: NDArray[np.int64], prior_SC: Array, folds_S: NDArray[np.int64], settings_G3: Array
) -> Array:
    """Mean cross-entropy of each setting (radius, bias radius, penalty) on the fold that it did not train on.

    All settings of all folds are one batch of problems, which costs hardly more than one.
    """
    folds = np.unique(folds_S)
    settings_P3 = np.tile(settings_G3, (len(folds), 1))
    counts_PS = np.repeat((folds_S != folds[:, None]).astype(np.float64), len(settings_G3), axis=0)
    problems = Problems(counts_PS, settings_P3[:, 0], settings_P3[:, 1], settings_P3[:, 2])
    found = solve(features_SR, labels_S, prior_SC, problems, tolerance=_COARSE, max_steps=_COARSE_STEPS)
    logits_PSC = features_SR @ found.weights_PDC + found.bias_PC[:, None, :] + prior_SC
    loss_PS = np.logaddexp.reduce(logits_PSC, axis=2) - logits_PSC[:, np.arange(len(labels_S)), labels_S]
    held_out_PS = 1 - counts_PS
    summed_FG = (loss_PS * held_out_PS).sum(axis=1).reshape(len(folds), -1)
    return summed_FG.sum(axis=0) / len(labels_S)


def _unbounded(counts_PN: Array, penalty_P: Array) -> Problems:
    far_P = np.full(len(penalty_P), np.inf)
    return Problems(counts_PN, far_P, far_P, penalty_P)
