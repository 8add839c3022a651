"""Few-shot probes: from the zero-shot classifier, from scratch, and with an L2 pull to zero-shot. Pure.

Paper (supplement), as quoted by others: the classifier is W_0 + W, where W_0 are the zero-shot weights and W stays in a
ball of radius delta, so that one shot does not make it worse than zero-shot; delta 0 is zero-shot. We do not know the
paper's other choices. Ours: Frobenius norm, the grids below, and the delta with the smallest cross-entropy on
validation images, as many of each class as there are shots; ties go to the smaller delta. All classifiers of a draw are
selected on the same validation images and trained on the shots alone; neither includes a test image. Where the smallest
class has too few images for validation, cross-validation on the shots selects; with one shot it leaves whole classes
without a shot and so keeps delta 0. The L2 pull is W_0 + W with a penalty on W in place of the ball.

The convex core solves many small problems at once by projected accelerated gradient. Each problem p minimises over W
and b, with the prior's logits fixed,

    sum_n a_pn CE(y_n, prior_n + W x_n + b) / sum_n a_pn + lambda_p / 2 ||W||_F^2
    s.t.  ||W||_F <= delta_p, ||b||_2 <= delta_b_p

by FISTA with adaptive restart and projection after every step, until the fixed-point residual is small: a step of plain
projected gradient no longer moves the solution. (Adam followed by a Euclidean projection converges to a wrong point.)
scikit-learn's and SciPy's solvers know no ball around W and take one problem at a time; a draw of shots has dozens of
them.

Shapes: N images, C classes, D features, S shots in all, V validation images, R directions that the shots span, P
problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.stages.evaluate.scores import similarity

DELTAS: Final = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Radius of W, in units of the root mean square norm of a class' zero-shot weights."""
BIAS_DELTAS: Final = (0.0, 0.1, 1.0)
"""Radius of the bias, in logits."""
PENALTIES: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decay of the probe from scratch, and of the pull towards the zero-shot weights."""
FOLDS: Final = 4
_COARSE: Final = 1e-3
"""Tolerance of the grid search; 1e-4 takes twice as long and selects the same. The final problem is solved to 1e-8."""
_COARSE_STEPS: Final = 500


@dataclass(frozen=True)
class FewShotDraw:
    """One draw of k shots per class, all four classifiers on the same test images (balanced accuracy)."""

    shots: int
    seed: int
    probe: float
    scratch: float
    pull: float
    """W_0 + W with a penalty on W."""
    zero_shot: float
    delta: float
    bias_delta: float
    penalty: float
    """of the probe from scratch."""
    pull_penalty: float
    held_out: bool
    """whether validation images selected; False: cross-validation on the shots."""
    residual: float
    """fixed-point residual of the probe's solution."""


@dataclass(frozen=True)
class FewShotCurve:
    """All draws, and the numbers of shots that were skipped."""

    draws: list[FewShotDraw]
    skipped: dict[int, str]
    """shots -> reason."""
    test_images: int
    """number of test images of each draw."""


def few_shot_curve(
    features_ND: NDArray[np.float32],
    labels_N: NDArray[np.int64],
    zero_shot_CD: NDArray[np.float32],
    shots: Sequence[int],
    rngs: Sequence[np.random.Generator],
    class_names: Sequence[str],
) -> FewShotCurve:
    """Draw shots, fit the probes, and test on the images that the draw uses for no number of shots.

    Args:
        features_ND: unit features of the benchmark's images.
        labels_N: their classes.
        zero_shot_CD: W_0: class embeddings times the model's logit scale.
        shots: numbers of shots per class; k shots need at least k + 1 images of every class.
        rngs: one generator for each seed.
        class_names: for messages.
    """
    counts_C = np.bincount(labels_N, minlength=len(class_names))
    scarce = int(counts_C.argmin())
    usable = sorted({k for k in shots if k < counts_C[scarce]})
    reason = f"class {class_names[scarce]!r} has only {counts_C[scarce]} images"
    skipped = {k: reason for k in sorted(shots) if k not in usable}
    if not usable:
        return FewShotCurve([], skipped, 0)
    scarcest = int(counts_C[scarce])
    reserved = max(2 * k if 2 * k < scarcest else k for k in usable)
    features, zero_shot = features_ND.astype(np.float64), zero_shot_CD.astype(np.float64)
    draws: list[FewShotDraw] = []
    for seed, rng in enumerate(rngs):
        # nested shots and one test set: the curve over k then shows the shots, not the choice of a test set
        order_CK = [rng.permutation(np.flatnonzero(labels_N == label)) for label in range(len(class_names))]
        test = np.concatenate([order[reserved:] for order in order_CK])
        for k in usable:
            train = np.concatenate([order[:k] for order in order_CK])
            validation = np.concatenate([order[k : 2 * k] for order in order_CK]) if 2 * k < scarcest else None
            task = _task(features, labels_N, zero_shot, train, validation)
            draws.append(_draw(task, features[test], labels_N[test], zero_shot, shots=k, seed=seed))
    return FewShotCurve(draws, skipped, len(labels_N) - reserved * len(class_names))


@dataclass(frozen=True)
class _Task:
    """Shots and validation images in the span of the shots: gradients of W lie there, and projections only scale."""

    basis_DR: Array
    shots_SR: Array
    labels_S: NDArray[np.int64]
    prior_SC: Array
    validation: tuple[Array, NDArray[np.int64], Array] | None
    """features, labels and prior of the validation images."""


def _task(
    features_ND: Array,
    labels_N: NDArray[np.int64],
    zero_shot_CD: Array,
    train: NDArray[np.int64],
    validation: NDArray[np.int64] | None,
) -> _Task:
    basis_DR = np.linalg.qr(features_ND[train].T)[0]

    def part(rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64], Array]:
        return features_ND[rows] @ basis_DR, labels_N[rows], features_ND[rows] @ zero_shot_CD.T

    return _Task(basis_DR, *part(train), validation=None if validation is None else part(validation))


def _draw(
    task: _Task, tests_TD: Array, labels_T: NDArray[np.int64], zero_shot_CD: Array, *, shots: int, seed: int
) -> FewShotDraw:
    unit = float(np.sqrt((zero_shot_CD**2).sum() / len(zero_shot_CD)))
    nothing = _without_prior(task)
    delta, bias_delta = _choose_radius(task, unit)
    penalty, pull = _choose_penalty(nothing), _choose_penalty(task)
    counts_1S = np.ones((1, len(task.labels_S)))
    ball = Problems(counts_1S, np.array([delta * unit]), np.array([bias_delta]), np.zeros(1))
    probe = solve(task.shots_SR, task.labels_S, task.prior_SC, ball)
    scratch = solve(task.shots_SR, task.labels_S, nothing.prior_SC, _unbounded(counts_1S, np.array([penalty])))
    pulled = solve(task.shots_SR, task.labels_S, task.prior_SC, _unbounded(counts_1S, np.array([pull])))
    tests_TR, prior_TC = tests_TD @ task.basis_DR, similarity(tests_TD, zero_shot_CD)

    def accuracy(solution: Solution, prior_TC: Array | float) -> float:
        scores_TC = tests_TR @ solution.weights_PDC[0] + solution.bias_PC[0] + prior_TC
        return balanced_accuracy(scores_TC.argmax(axis=1), labels_T)

    return FewShotDraw(
        shots=shots,
        seed=seed,
        probe=accuracy(probe, prior_TC),
        scratch=accuracy(scratch, 0.0),
        pull=accuracy(pulled, prior_TC),
        zero_shot=balanced_accuracy(prior_TC.argmax(axis=1), labels_T),
        delta=delta,
        bias_delta=bias_delta,
        penalty=penalty,
        pull_penalty=pull,
        held_out=task.validation is not None,
        residual=probe.residual,
    )


def _without_prior(task: _Task) -> _Task:
    """The same task for a classifier without the zero-shot prior."""
    validation = task.validation
    if validation is not None:
        validation = (validation[0], validation[1], np.zeros_like(validation[2]))
    return _Task(task.basis_DR, task.shots_SR, task.labels_S, np.zeros_like(task.prior_SC), validation)


def _choose_radius(task: _Task, unit: float) -> tuple[float, float]:
    """The radii (delta in units, delta_b) with the smallest validation cross-entropy, the smallest on a tie."""
    grid = np.array(list(product(DELTAS, BIAS_DELTAS)))
    settings_G3 = np.column_stack([grid[:, 0] * unit, grid[:, 1], np.zeros(len(grid))])
    best = int(_choice_losses(task, settings_G3).argmin())
    return float(grid[best, 0]), float(grid[best, 1])


def _choose_penalty(task: _Task) -> float:
    """The penalty with the smallest validation cross-entropy."""
    settings_G3 = np.array([[np.inf, np.inf, penalty] for penalty in PENALTIES])
    return PENALTIES[int(_choice_losses(task, settings_G3).argmin())]


def _choice_losses(task: _Task, settings_G3: Array) -> Array:
    if task.validation is not None:
        return held_out_losses(task.shots_SR, task.labels_S, task.prior_SC, task.validation, settings_G3)
    folds_S = np.arange(len(task.labels_S)) % min(FOLDS, len(task.labels_S))
    return cross_validated(task.shots_SR, task.labels_S, task.prior_SC, folds_S, settings_G3)


def balanced_accuracy(named_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """Accuracy within each class, averaged over the classes that occur."""
    return float(np.mean([(named_N[labels_N == label] == label).mean() for label in np.unique(labels_N)]))


def held_out_losses(
    features_SR: Array,
    labels_S: NDArray[np.int64],
    prior_SC: Array,
    validation: tuple[Array, NDArray[np.int64], Array],
    settings_G3: Array,
) -> Array:
    """Mean validation cross-entropy of each setting (radius, bias radius, penalty), fitted on the shots."""
    counts_GS = np.ones((len(settings_G3), len(labels_S)))
    problems = Problems(counts_GS, settings_G3[:, 0], settings_G3[:, 1], settings_G3[:, 2])
    found = solve(features_SR, labels_S, prior_SC, problems, tolerance=_COARSE, max_steps=_COARSE_STEPS)
    features_VR, labels_V, prior_VC = validation
    return _losses(features_VR @ found.weights_PDC + found.bias_PC[:, None, :] + prior_VC, labels_V).mean(axis=1)


def cross_validated(
    features_SR: Array, labels_S: NDArray[np.int64], prior_SC: Array, folds_S: NDArray[np.int64], settings_G3: Array
) -> Array:
    """Mean cross-entropy of each setting (radius, bias radius, penalty) on the fold that it did not train on.

    All settings of all folds form one batch of problems, which costs little more than one problem.
    """
    folds = np.unique(folds_S)
    settings_P3 = np.tile(settings_G3, (len(folds), 1))
    counts_PS = np.repeat((folds_S != folds[:, None]).astype(np.float64), len(settings_G3), axis=0)
    problems = Problems(counts_PS, settings_P3[:, 0], settings_P3[:, 1], settings_P3[:, 2])
    found = solve(features_SR, labels_S, prior_SC, problems, tolerance=_COARSE, max_steps=_COARSE_STEPS)
    loss_PS = _losses(features_SR @ found.weights_PDC + found.bias_PC[:, None, :] + prior_SC, labels_S)
    held_out_PS = 1 - counts_PS
    summed_FG = (loss_PS * held_out_PS).sum(axis=1).reshape(len(folds), -1)
    return summed_FG.sum(axis=0) / len(labels_S)


def _losses(logits_PVC: Array, labels_V: NDArray[np.int64]) -> Array:
    return np.logaddexp.reduce(logits_PVC, axis=2) - logits_PVC[:, np.arange(len(labels_V)), labels_V]


def _unbounded(counts_PN: Array, penalty_P: Array) -> Problems:
    far_P = np.full(len(penalty_P), np.inf)
    return Problems(counts_PN, far_P, far_P, penalty_P)


def curve_json(curve: FewShotCurve) -> dict[str, Any]:
    """The curve for `report.json`: mean and spread over the draws of each number of shots."""
    points: list[dict[str, Any]] = []
    for shots in sorted({draw.shots for draw in curve.draws}):
        draws = [draw for draw in curve.draws if draw.shots == shots]
        point: dict[str, Any] = {"shots": shots, "draws": len(draws), "held_out": draws[0].held_out}
        for kind in ("probe", "scratch", "pull", "zero_shot"):
            values = np.array([getattr(draw, kind) for draw in draws])
            point[kind] = {"mean": float(values.mean()), "low": float(values.min()), "high": float(values.max())}
            point[kind]["deviation"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        points.append(point)
    return {
        "points": points,
        "draws": [asdict(draw) for draw in curve.draws],
        "skipped": [{"shots": shots, "why": why} for shots, why in curve.skipped.items()],
        "test_pictures": curve.test_images,
    }


Array = NDArray[np.float64]

_CHECK_EVERY: Final = 10
"""Steps between two checks of the residual, each of which costs one gradient."""


@dataclass(frozen=True)
class Problems:
    """P problems over the same images; they differ in the training images, the radii and the penalty."""

    counts_PN: Array
    """a: 1 if problem p trains on the image, else 0."""
    radius_P: Array
    """delta; infinity for no bound."""
    bias_radius_P: Array
    """delta_b; infinity for no bound."""
    penalty_P: Array
    """lambda."""


@dataclass(frozen=True)
class Solution:
    """Solutions of the P problems."""

    weights_PDC: Array
    bias_PC: Array
    residual: float
    """largest fixed-point residual of all problems."""


def solve(
    features_ND: Array,
    labels_N: NDArray[np.int64],
    prior_NC: Array,
    problems: Problems,
    *,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
) -> Solution:
    """Solve all problems.

    Args:
        features_ND: the images.
        labels_N: their classes.
        prior_NC: logits of the classifier that W and b are added to; zeros for a probe from scratch.
        problems: training images, radii and penalties.
        tolerance: fixed-point residual at which to stop.
        max_steps: limit; the residual then tells how good the solution is.
    """
    target_NC = np.eye(prior_NC.shape[1])[labels_N]
    share_PN = problems.counts_PN / problems.counts_PN.sum(axis=1, keepdims=True)
    rate_P = 1 / _lipschitz(features_ND, share_PN, problems.penalty_P)

    def step(weights_PDC: Array, bias_PC: Array) -> tuple[Array, Array]:
        logits_PNC = features_ND @ weights_PDC + bias_PC[:, None, :] + prior_NC
        error_PNC = (_softmax(logits_PNC) - target_NC) * share_PN[:, :, None]
        gradient_PDC = features_ND.T @ error_PNC + problems.penalty_P[:, None, None] * weights_PDC
        return (
            _project(weights_PDC - rate_P[:, None, None] * gradient_PDC, problems.radius_P),
            _project(bias_PC - rate_P[:, None] * error_PNC.sum(axis=1), problems.bias_radius_P),
        )

    shape = (len(rate_P), features_ND.shape[1], prior_NC.shape[1])
    weights, bias = np.zeros(shape), np.zeros((shape[0], shape[2]))
    extrapolated, bias_extrapolated, momentum_P = weights, bias, np.ones(shape[0])
    residual, count = np.inf, 0
    while residual > tolerance and count < max_steps:
        new, new_bias = step(extrapolated, bias_extrapolated)
        momentum_P, pull_P = _momentum(
            momentum_P, (extrapolated - new, bias_extrapolated - new_bias), (new - weights, new_bias - bias)
        )
        extrapolated = new + pull_P[:, None, None] * (new - weights)
        bias_extrapolated = new_bias + pull_P[:, None] * (new_bias - bias)
        weights, bias, count = new, new_bias, count + 1
        if count % _CHECK_EVERY == 0:
            moved, bias_moved = step(weights, bias)
            residual = float(max(np.abs(moved - weights).max(), np.abs(bias_moved - bias).max()))
    return Solution(weights, bias, residual)


def _momentum(momentum_P: Array, back: tuple[Array, Array], forth: tuple[Array, Array]) -> tuple[Array, Array]:
    """FISTA's next momentum and pull; both restart where the last step went uphill (O'Donoghue and Candes, 2015)."""
    uphill_P = np.einsum("pdc,pdc->p", back[0], forth[0]) + np.einsum("pc,pc->p", back[1], forth[1])
    momentum_P = np.where(uphill_P > 0, 1.0, momentum_P)
    following_P = (1 + np.sqrt(1 + 4 * momentum_P**2)) / 2
    return following_P, (momentum_P - 1) / following_P


def _project(values: Array, radius_P: Array) -> Array:
    """Projection onto the ball of Frobenius norm `radius`, for each problem."""
    norm_P = np.sqrt((values**2).reshape(len(values), -1).sum(axis=1))
    scale_P = np.where(norm_P > radius_P, radius_P / np.maximum(norm_P, 1e-300), 1.0)
    return values * scale_P.reshape(-1, *([1] * (values.ndim - 1)))


def _lipschitz(features_ND: Array, share_PN: Array, penalty_P: Array) -> Array:
    """Lipschitz bound of the gradient: the curvature of softmax cross-entropy in its logits is at most 1/2."""
    extended_NE = np.concatenate([features_ND, np.ones((len(features_ND), 1))], axis=1)
    largest = [np.linalg.norm(extended_NE * np.sqrt(share_N)[:, None], 2) ** 2 for share_N in share_PN]
    return np.maximum(0.5 * np.array(largest), 1e-12) + penalty_P


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
