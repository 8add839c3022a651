"""Probes of the image tower: logistic regression from few and half of a class' images.

Shapes: N images, D features, C classes, S shots in all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.stages.evaluate.few_shot import FOLDS, cross_validated
from diht_k8s.stages.evaluate.probe_solver import Problems, solve

ACCURACY: Final = "accuracy"
"""The figure of a probe."""
FEW: Final = 5
"""shots of the few-shot probe; the linear probe has half of a class' images."""
DRAWS: Final = 5
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decays of the published trainings; the product has smaller ones since."""
TOLERANCE: Final = 1e-5
"""fixed-point residual."""
Hits = tuple[NDArray[np.float64], NDArray[np.float64]]


def probe(features_ND: NDArray[np.float32], classes_N: NDArray[np.int64]) -> dict[str, Hits]:
    """`few-shot` and `linear`: [N] hits and [N] draws in which the image was tested; both probes test the same ones."""
    size = int(np.bincount(classes_N).min())
    assert classes_N.max() > 0, "a probe tells classes apart"
    found = {name: (np.zeros(len(classes_N)), np.zeros(len(classes_N))) for name in ("few-shot", "linear")}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        order_CK = [rng.permutation(np.flatnonzero(classes_N == each)) for each in range(int(classes_N.max()) + 1)]
        test = np.concatenate([order[size // 2 :] for order in order_CK])
        for name, shots in (("few-shot", FEW), ("linear", size // 2)):
            train = np.stack(
                [order[:shots] for order in order_CK], axis=1
            ).ravel()  # by turns, so that folds have all classes
            named = _named(features_ND[train], classes_N[train], features_ND[test])
            hits_N, tested_N = found[name]
            hits_N[test] += named == classes_N[test]
            tested_N[test] += 1
    return found


def _named(
    shots_SD: NDArray[np.float32], classes_S: NDArray[np.int64], tests_TD: NDArray[np.float32]
) -> NDArray[np.int64]:
    mean_D = shots_SD.mean(axis=0, dtype=np.float64)
    scale = np.linalg.norm(shots_SD - mean_D, axis=1).mean()  # penalties mean the same for every model
    features_SD, tests = (shots_SD - mean_D) / scale, (tests_TD - mean_D) / scale
    prior_SC = np.zeros((len(classes_S), int(classes_S.max()) + 1))
    settings_G3 = np.array([[np.inf, np.inf, penalty] for penalty in PENALTIES])
    folds_S = np.arange(len(classes_S)) // prior_SC.shape[1] % FOLDS
    best = PENALTIES[int(cross_validated(features_SD, classes_S, prior_SC, folds_S, settings_G3).argmin())]
    ones = np.ones((1, len(classes_S)))
    problem = Problems(ones, np.array([np.inf]), np.array([np.inf]), np.array([best]))
    found = solve(features_SD, classes_S, prior_SC, problem, tolerance=TOLERANCE)
    return (tests @ found.weights_PDC[0] + found.bias_PC[0]).argmax(axis=1)
