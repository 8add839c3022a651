"""The convex core of the few-shot probe: many small problems solved at once by projected accelerated gradient. Pure.

Each problem p minimises over W and b, with the prior's logits fixed,

    sum_n a_pn CE(y_n, prior_n + W x_n + b) / sum_n a_pn + lambda_p / 2 ||W||_F^2
    s.t.  ||W||_F <= delta_p, ||b||_2 <= delta_b_p

by FISTA with adaptive restart and projection after every step, until the fixed-point residual is small: a step of plain
projected gradient no longer moves the solution. (Adam followed by a Euclidean projection converges to a wrong point.)

scikit-learn's and SciPy's solvers know no ball around W and take one problem at a time; a draw of shots has dozens of them.

Shapes: P problems, N images, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
