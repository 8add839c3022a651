"""Zero-shot classification: class embeddings from templates, accuracies and confusions from scores. Pure.

Shapes: N images, C classes, T templates, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluate.bootstrap import RESAMPLES, Interval, interval, rate_interval

TOP: Final = 5


@dataclass(frozen=True)
class Classification:
    """Figures of one classification benchmark."""

    top1: float
    """share of images whose best class is right."""
    top1_interval: Interval
    top5: float | None
    """share with the right class among the best 5; None for up to 5 classes, where it is always 1."""
    balanced: float
    """mean over classes of the share that is right (mean per class): every class has the same weight."""
    balanced_interval: Interval
    per_class: list[float | None]
    """accuracy within each class, None if the benchmark has no image of it."""
    majority: float
    """top1 of always predicting the most common class."""
    chance: float
    """top1 and balanced accuracy of guessing: 1 / C."""
    confusion_CC: NDArray[np.int64]
    """row: true class, column: predicted class."""
    macro_f1: float
    """F1 averaged over the classes that occur (WILDS' metric for iWildCam)."""
    hits_2N: NDArray[np.bool_]
    """whether each image's class is the first, and whether it is among the first 5."""


@dataclass(frozen=True)
class GroupAccuracy:
    """Figures of one group of images."""

    name: str
    images: int
    top1: float
    top5: float


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template, templates of one class together; `{}` or `{c}` stands for the name."""
    return [fill(template, name) for name in class_names for template in templates]


def fill(template: str, text: str) -> str:
    """A template with its placeholder, `{c}` or `{}`, replaced. Braces in the text stay."""
    return template.replace("{c}" if "{c}" in template else "{}", text)


def class_embeddings(text_features_PD: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Prompt ensembling as in CLIP: the mean of the unit features of a class' prompts, normalised to unit length.

    Args:
        text_features_PD: unit features of `prompts`, P = C * T.
        classes: C.

    Returns:
        [C, D], unit length.
    """
    mean_CD = text_features_PD.reshape(classes, -1, text_features_PD.shape[1]).mean(axis=1)
    return mean_CD / np.maximum(np.linalg.norm(mean_CD, axis=1, keepdims=True), 1e-12)


def classification(
    scores_NC: NDArray[np.floating], labels_N: NDArray[np.int64], rng: np.random.Generator
) -> Classification:
    """Figures from scores; ties go to the lower class index, as in other tools.

    Args:
        scores_NC: any score, higher is better.
        labels_N: true class indexes.
        rng: draws of the bootstrap (over images).
    """
    classes = scores_NC.shape[1]
    order_NC = np.argsort(-scores_NC, axis=1, kind="stable")
    named_N = order_NC[:, 0]
    right_N = (named_N == labels_N).astype(np.float64)
    confusion_CC = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion_CC, (labels_N, named_N), 1)
    counts_C = confusion_CC.sum(axis=1)
    hits_2N = np.stack([named_N == labels_N, (order_NC[:, :TOP] == labels_N[:, None]).any(axis=1)])
    return Classification(
        top1=float(right_N.mean()),
        top1_interval=rate_interval(right_N, np.ones(len(right_N)), rng),
        top5=float(hits_2N[1].mean()) if classes > TOP else None,
        balanced=balanced_accuracy(named_N, labels_N),
        balanced_interval=interval(_balanced_draws(confusion_CC.diagonal(), counts_C, rng)),
        per_class=[float(confusion_CC[c, c] / counts_C[c]) if counts_C[c] else None for c in range(classes)],
        majority=float(counts_C.max() / counts_C.sum()),
        chance=1 / classes,
        confusion_CC=confusion_CC,
        macro_f1=macro_f1(confusion_CC),
        hits_2N=hits_2N,
    )


def macro_f1(confusion_CC: NDArray[np.int64]) -> float:
    """Mean F1 of the classes that occur; a class without a true positive counts as 0."""
    true_C, named_C = confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    present = true_C > 0
    return float(np.mean(2 * confusion_CC.diagonal()[present] / (true_C + named_C)[present]))


def by_group(hits_2N: NDArray[np.bool_], groups: Sequence[str | None]) -> list[GroupAccuracy]:
    """Accuracies of each group of images (a region, an income), lowest top-1 first.

    Empty if there is only one group, or nearly one for each image.
    """
    named = [group for group in groups if group is not None]
    names = sorted(set(named))
    if not 2 <= len(names) <= len(named) / 2:
        return []
    of_N = np.array([names.index(group) if group is not None else -1 for group in groups])
    found = [
        GroupAccuracy(name, int((of_N == row).sum()), *(float(hits_N[of_N == row].mean()) for hits_N in hits_2N))
        for row, name in enumerate(names)
    ]
    return sorted(found, key=lambda group: group.top1)


def balanced_accuracy(named_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """Accuracy within each class, averaged over the classes that occur."""
    return float(np.mean([(named_N[labels_N == label] == label).mean() for label in np.unique(labels_N)]))


def _balanced_draws(
    hits_C: NDArray[np.int64], counts_C: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Balanced accuracy over resampled images, resampled within each class so that no draw misses a class."""
    present = counts_C > 0
    drawn_RC = rng.binomial(counts_C[present], hits_C[present] / counts_C[present], (RESAMPLES, int(present.sum())))
    return (drawn_RC / counts_C[present]).mean(axis=1)
