"""Quality of the heads on images that they never saw: average precision beside that of the frequencies alone,
calibration.

In: a head, features, targets and folds. Out: figures for `heads.json`. Without cross-fitting (K = 1) the unseen images
are the held-out slice.

Shapes: N images, C classes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diht_k8s.api.errors import DataError
from diht_k8s.stages.label.heads import Head, TrainingImages
from diht_k8s.stages.label.targets import Targets
from diht_k8s.stages.label.vocabulary import Concepts

MIN_EXAMPLES: Final = 20
"""Average precision of a concept with fewer images says little."""
MAX_ENTRIES: Final = 50_000_000
"""The figures are taken on the first images, up to this many probabilities (200 MB).

Those of a million images would not fit into memory.
"""
SHOWN: Final = 10
CHUNK: Final = 1024
"""Images whose probabilities are sorted into bins at a time."""
CALIBRATION_EDGES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Lower edges of the bins of probability; the softmax over hundreds of classes leaves most entries near 0."""


def head_figures(head: Head, images: TrainingImages, targets: Targets, concepts: Concepts) -> dict[str, Any]:
    """Average precision and how often the top label is a word of the caption.

    Returns:
        mean_average_precision over concepts with at least 20 examples, and that of a constant guess (a concept's share
        of the images); the share of images whose top label the caption names, by heads that saw the image and by heads
        that did not; average precision of each measured concept, best first, and the best and worst of them;
        calibration.

    Raises:
        DataError: the heads' probabilities are not finite: every comparison with NaN is False, so figures would say
            something.
    """
    unseen, seen = _measured_rows(images, most=max(1, MAX_ENTRIES // targets.classes))
    probabilities_NC = head.probabilities(images.features_ND[unseen], images.fold_N[unseen]).numpy()
    target_NC = targets.soft(unseen).numpy()
    present_NC = target_NC > 0
    named_N = np.asarray(present_NC.any(axis=1))
    learned_N = np.asarray(named_N if head.kind == "Softmax" else np.ones_like(named_N))
    if head.kind == "Sigmoid":
        target_NC = present_NC.astype(np.float32)
    seen_NC = head.all_data_probabilities(images.features_ND[seen]).numpy()
    if not (np.isfinite(probabilities_NC).all() and np.isfinite(seen_NC).all()):
        raise DataError(
            f"the probabilities of the heads of {targets.classes} concepts are not finite: remove the stage's heads "
            "and "
            "train them again, with a lower learning rate if it happens again"
        )
    seen_present_NC = targets.soft(seen).numpy() > 0
    precision_C, frequency_C = average_precision(probabilities_NC, present_NC)
    measured = np.flatnonzero(present_NC.sum(axis=0) >= MIN_EXAMPLES)
    ranked = sorted(measured.tolist(), key=lambda number: (-precision_C[number], number))
    shown = [[concepts.names[number], round(float(precision_C[number]), 4)] for number in ranked]
    return {
        "held_out": images.folds > 1 or bool((images.fold_N[unseen] == 0).any()),
        "pictures": int(named_N.sum()),
        "concepts_measured": len(measured),
        "mean_average_precision": _mean(precision_C[measured]),
        "frequency_baseline": _mean(frequency_C[measured]),
        "top_label_in_caption": {
            "never_seen": _top_in_caption(probabilities_NC, present_NC),
            "seen_in_training": _top_in_caption(seen_NC, seen_present_NC),
            "commonest_concept": _top_in_caption(np.broadcast_to(frequency_C, present_NC.shape), present_NC),
        },
        "average_precision": shown,
        "calibration": calibration(probabilities_NC, target_NC, learned_N),
        "temperature": round(head.temperature, 4),
        "best": shown[:SHOWN],
        "worst": shown[::-1][:SHOWN],
        "best_epoch": head.best_epoch,
        "history": [{name: round(value, 5) for name, value in epoch.items()} for epoch in head.history],
    }


def _measured_rows(images: TrainingImages, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images that the measured heads have not seen, and images that they have; the same images if there are no
    others.
    """
    held_out_N = images.fold_N.numpy() == 0
    if images.folds > 1 or not held_out_N.any():
        rows = np.arange(len(held_out_N))[:most]
        return rows, rows
    return np.flatnonzero(held_out_N)[:most], np.flatnonzero(~held_out_N)[:most]


def average_precision(
    scores_NC: npt.NDArray[np.float32], present_NC: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Average precision of each class with at least `MIN_EXAMPLES` images (else NaN), and of a constant guess (its
    share of the images).
    """
    precision_C = np.full(present_NC.shape[1], np.nan)
    for number in np.flatnonzero(present_NC.sum(axis=0) >= MIN_EXAMPLES):
        precision_C[number] = _average_precision(scores_NC[:, number], present_NC[:, number])
    return precision_C, present_NC.mean(axis=0)


def _average_precision(scores_N: npt.NDArray[np.float32], present_N: npt.NDArray[np.bool_]) -> float:
    """scikit-learn's definition (sum of precision x rise of recall, ties together), which takes seconds to import."""
    order_N = np.argsort(-scores_N, kind="stable")
    hits_N = np.cumsum(present_N[order_N])
    last_N = np.append(np.diff(scores_N[order_N]) != 0, True)  # the last of each group of equal scores
    hits_T = hits_N[last_N]
    precision_T = hits_T / (np.flatnonzero(last_N) + 1)
    return float((precision_T * np.diff(hits_T, prepend=0)).sum() / hits_N[-1])


def calibration(
    probabilities_NC: npt.NDArray[np.float32], target_NC: npt.NDArray[np.float32], chosen_N: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Compare probabilities with targets: for (image, class) entries of about equal probability, the mean soft target.

    A softmax learns targets of 1/m, so its calibrated p is the mean target, not the share of images that show the
    concept; of sigmoids it is the share of captions that name it.

    Args:
        probabilities_NC: by heads that never saw the image.
        target_NC: 1/m on each of m present classes; 1 for sigmoids.
        chosen_N: images that count: those with a concept of this head, for sigmoids all.

    Returns:
        bins of [lower edge, entries, mean probability, mean target] without empty ones, and the expected calibration
        error: the mean difference of the two over the probability mass, so that the many entries near 0 do not hide the
        rest.
    """
    sums_3E = np.zeros((3, len(CALIBRATION_EDGES)))  # entries, probabilities, targets
    rows_N = np.flatnonzero(chosen_N)
    for start in range(0, len(rows_N), CHUNK):
        rows_B = rows_N[start : start + CHUNK]
        probability, target = probabilities_NC[rows_B].ravel(), target_NC[rows_B].ravel()
        number = np.digitize(probability, CALIBRATION_EDGES[1:])
        for row, weights in enumerate((None, probability, target)):
            sums_3E[row] += np.bincount(number, weights, minlength=len(CALIBRATION_EDGES))
    _, probability_E, target_E = sums_3E
    mass = probability_E.sum()
    return {
        "expected_error": round(float(np.abs(probability_E - target_E).sum() / mass), 4) if mass else None,
        "bins": [
            [edge, int(entries), round(probability / entries, 5), round(target / entries, 5)]
            for edge, entries, probability, target in zip(CALIBRATION_EDGES, *sums_3E.tolist(), strict=True)
            if entries
        ],
    }


def _top_in_caption(scores_NC: npt.NDArray[Any], present_NC: npt.NDArray[np.bool_]) -> float | None:
    """Share of the images with a concept whose top class is one of their own."""
    rows = np.flatnonzero(present_NC.any(axis=1))
    return _mean(present_NC[rows, scores_NC[rows].argmax(axis=1)])


def _mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
