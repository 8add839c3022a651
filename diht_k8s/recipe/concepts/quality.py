"""How good the heads are on pictures that they never saw, beside what the frequencies alone would give.

In: a head, features, targets and folds. Out: figures for `heads.json`. Without cross-fitting (K = 1) there is no such picture, and the figures
say what the head gives on its own training pictures.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from diht_k8s.recipe.concepts.heads import Head, TrainingPictures
from diht_k8s.recipe.concepts.targets import Targets
from diht_k8s.recipe.concepts.vocabulary import Concepts

MIN_EXAMPLES: Final = 20
"""Average precision of a concept with fewer pictures says little."""
MAX_PICTURES: Final = 20_000
"""The figures are taken on the first so many pictures: all probabilities of a million would not fit into memory."""
SHOWN: Final = 10


def measure(head: Head, pictures: TrainingPictures, targets: Targets, concepts: Concepts) -> dict[str, Any]:
    """Average precision and how often the top label is a word of the caption.

    Returns:
        mean_average_precision over concepts with at least 20 examples, with that of a constant guess (a concept's share of the pictures);
        shares of pictures whose top label the caption names, by heads that saw the picture and by heads that did not; best and worst concepts.
    """
    count = min(MAX_PICTURES, len(pictures.features_ND))
    features_ND = pictures.features_ND[:count]
    probabilities_NC = head.probabilities(features_ND, pictures.fold_N[:count]).numpy()
    seen_NC = head.all_data_probabilities(features_ND).numpy()
    present_NC = targets.soft(np.arange(count)).numpy() > 0
    precision_C, frequency_C = average_precision(probabilities_NC, present_NC)
    measured = np.flatnonzero(present_NC.sum(axis=0) >= MIN_EXAMPLES)
    ranked = sorted(measured.tolist(), key=lambda number: (-precision_C[number], number))
    shown = [[concepts.names[number], round(float(precision_C[number]), 4)] for number in ranked]
    return {
        "held_out": pictures.folds > 1,
        "pictures": int(present_NC.any(axis=1).sum()),
        "concepts_measured": len(measured),
        "mean_average_precision": _mean(precision_C[measured]),
        "frequency_baseline": _mean(frequency_C[measured]),
        "top_label_in_caption": {
            "never_seen": _top_in_caption(probabilities_NC, present_NC),
            "seen_in_training": _top_in_caption(seen_NC, present_NC),
            "commonest_concept": _top_in_caption(np.broadcast_to(frequency_C, present_NC.shape), present_NC),
        },
        "best": shown[:SHOWN],
        "worst": shown[::-1][:SHOWN],
        "best_epoch": head.best_epoch,
        "history": [{name: round(value, 5) for name, value in epoch.items()} for epoch in head.history],
    }


def average_precision(
    scores_NC: npt.NDArray[np.float32], present_NC: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Average precision of each class with at least `MIN_EXAMPLES` pictures (else NaN), and of a constant guess: its share of the pictures."""
    from sklearn.metrics import average_precision_score

    precision_C = np.full(present_NC.shape[1], np.nan)
    for number in np.flatnonzero(present_NC.sum(axis=0) >= MIN_EXAMPLES):
        precision_C[number] = average_precision_score(present_NC[:, number], scores_NC[:, number])
    return precision_C, present_NC.mean(axis=0)


def _top_in_caption(scores_NC: npt.NDArray[Any], present_NC: npt.NDArray[np.bool_]) -> float | None:
    """Share of the pictures with a concept whose top class is one of their own."""
    rows = np.flatnonzero(present_NC.any(axis=1))
    return _mean(present_NC[rows, scores_NC[rows].argmax(axis=1)])


def _mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
