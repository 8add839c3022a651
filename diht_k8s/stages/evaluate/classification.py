"""Benchmarks with classes: zero-shot accuracies and confusions, with the few-shot probe beside them.

Where an image has several classes (MultiLabel, PASCAL VOC 2007), how well each class ranks the images that have it.

scikit-learn has most of these figures, but takes seconds to import and gives no intervals.

Shapes: N images, U of them without copies, C classes, T templates, D features, B resamples, M figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from diht_k8s.api.errors import DataError
from diht_k8s.api.evaluate import FewShot
from diht_k8s.report.average_precision import (
    IGNORED,
    NAMES,
    average_precisions,
    mean_average_precisions,
)
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate.class_texts import ensemble_prompts, prompts
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.few_shot import balanced_accuracy, curve_json, few_shot_curve
from diht_k8s.stages.evaluate.results import FOUND, Measured, asked_digest, drawn_by_digest, per_image_of
from diht_k8s.stages.evaluate.scores import RESAMPLES, Interval, interval, rate_interval, similarity
from diht_k8s.stages.evaluate.soundness import TextEncoder

TOP: Final = 5
MAX_CONFUSION_CLASSES: Final = 60
SHOWN_CONFUSIONS: Final = 12
GUESSES: Final = 20
"""Random orders whose mean is the figure of guessing: that of 11 points is above the share of images with the class."""

Json = dict[str, Any]


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
    """all images are resampled, with the weights by which comparisons do too: within a class of one image nothing
    varies.
    """
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


def classify(
    images: EncodedImages,
    names: Sequence[str],
    templates: Sequence[str],
    encode: TextEncoder,
    few_shot: FewShot | None,
    seed: Sequence[int],
) -> Measured:
    """Zero-shot classification, and the few-shot probe if it is configured.

    Raises:
        DataError: no image has a class, or a class has no name.
    """
    labelled = images.chosen(lambda item: item.label is not None)
    if not labelled.items:
        raise DataError("no image has a class: add a .cls member, or `cls` to the .json")
    labels_N = np.array([item.label for item in labelled.items])
    classes_CD = _encoded_classes(int(labels_N.max()), names, templates, encode)
    scores_NC = similarity(labelled.features_ND, classes_CD)
    figures = classification(scores_NC, labels_N, np.random.default_rng(seed))
    result: Json = {
        "pictures": len(labels_N),
        "without_class": len(images.items) - len(labels_N),
        "classes": list(names),
        "class_pictures": np.bincount(labels_N, minlength=len(names)).tolist(),
        "templates": list(templates),
        "top1": figures.top1,
        "top1_interval": list(figures.top1_interval),
        "top5": figures.top5,
        "balanced": figures.balanced,
        "balanced_interval": list(figures.balanced_interval),
        "majority": figures.majority,
        "chance": figures.chance,
        "per_class": figures.per_class,
        "macro_f1": figures.macro_f1,
        "named_classes": int(np.count_nonzero(figures.confusion_CC.sum(axis=0))),
        "groups": _groups(by_group(figures.hits_2N, [item.group for item in labelled.items])),
        "confusion": figures.confusion_CC.tolist() if len(names) <= MAX_CONFUSION_CLASSES else None,
        "confused": _confused(figures.confusion_CC, names),
        "queries": _queries(scores_NC, labels_N, names, [item.uid for item in labelled.items]),
    }
    if few_shot is not None:
        rngs = [np.random.default_rng([*seed, draw]) for draw in range(few_shot.seeds)]
        zero_shot_CD = encode.logit_scale * classes_CD
        one_each = np.unique(labelled.first_rows())  # a copy of a shot would be a test image
        features_UD, labels_U = labelled.features_ND[one_each], labels_N[one_each]
        with threadpool_limits(1):  # products this small are slower on several threads
            curve = few_shot_curve(features_UD, labels_U, zero_shot_CD, few_shot.shots, rngs, names)
        result["few_shot"] = curve_json(curve)
    shown = [hit["item"] for query in result["queries"]["drawn"] for hit in query["top"]]
    per_image = _classified(labelled, figures, labels_N, names)
    return Measured(result, per_image, labelled.items, list(dict.fromkeys(shown)))


def _encoded_classes(
    highest: int, names: Sequence[str], templates: Sequence[str], encode: TextEncoder
) -> NDArray[np.floating]:
    """[C, D] of the names, which the images' classes up to the highest number have."""
    if highest >= len(names):
        raise DataError(f"an image has class {highest}, but there are {len(names)} class names (0 to {len(names) - 1})")
    return ensemble_prompts(encode(prompts(names, templates)), len(names))


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
    share_N = _balanced_shares(labels_N)
    hits_2N = np.stack([named_N == labels_N, (order_NC[:, :TOP] == labels_N[:, None]).any(axis=1)])
    return Classification(
        top1=float(right_N.mean()),
        top1_interval=rate_interval(right_N, np.ones(len(right_N)), rng),
        top5=float(hits_2N[1].mean()) if classes > TOP else None,
        balanced=balanced_accuracy(named_N, labels_N),
        balanced_interval=rate_interval(right_N * share_N, share_N, rng),
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


def _balanced_shares(labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each image in the mean per class, 1 / (classes that occur * images of its class), times N."""
    counts_C = np.bincount(labels_N)
    return len(labels_N) / (counts_C[labels_N] * np.count_nonzero(counts_C))


def _classified(
    labelled: EncodedImages, figures: Classification, labels_N: np.ndarray, names: Sequence[str]
) -> PerImage:
    """Each image's part in the figures; all have N as the sum of their weights."""
    ones_N, share_N = np.ones(len(labels_N)), _balanced_shares(labels_N)
    hits_2N = figures.hits_2N.astype(np.float64)
    found = {"top-1": (hits_2N[0], ones_N), "mean per class": (hits_2N[0] * share_N, share_N)}
    if figures.top5 is not None:
        found["top-5"] = (hits_2N[1], ones_N)
    of_names = asked_digest(names)
    asked_C = [asked_digest([of_names, label]) for label in range(len(names))]
    texts, asked = [names[int(label)] for label in labels_N], [asked_C[int(label)] for label in labels_N]
    return per_image_of(labelled.items, texts, asked, found)


def _confused(confusion_CC: np.ndarray, names: Sequence[str]) -> list[Json]:
    """The most common mistakes."""
    wrong = confusion_CC * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        {"true": names[true], "named": names[named], "pictures": int(wrong[true, named])}
        for true, named in pairs
        if wrong[true, named]
    ]


def _queries(scores_NC: np.ndarray, labels_N: np.ndarray, names: Sequence[str], uids: Sequence[str]) -> Json:
    """Class names as queries: the first images of some, and the share of right ones among those of all, beside
    chance.
    """
    first_KC = np.argsort(-scores_NC, axis=0, kind="stable")[:FOUND]
    right_KC = labels_N[first_KC] == np.arange(len(names))
    present = np.isin(np.arange(len(names)), labels_N)
    known = [c for c in range(len(names)) if present[c]]
    drawn = [known[row] for row in drawn_by_digest([names[c] for c in known], [names[c] for c in known])]
    return {
        "right": float(right_KC[:, present].mean()),
        "chance": float(np.bincount(labels_N)[known].mean() / len(labels_N)),
        "drawn": [
            {
                "query": names[c],
                "top": [
                    {"item": uids[row], "right": bool(right)}
                    for row, right in zip(first_KC[:, c], right_KC[:, c], strict=True)
                ],
            }
            for c in drawn
        ],
    }


def _groups(groups: Sequence[GroupAccuracy]) -> list[Json]:
    return [{"name": group.name, "pictures": group.images, "top1": group.top1, "top5": group.top5} for group in groups]


def rank_images(
    images: EncodedImages, names: Sequence[str], templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]
) -> Measured:
    """Average precision of each class and their mean, over the images whose classes are known.

    Args:
        images: of the benchmark, encoded.
        names: of the classes, in the order of their numbers.
        templates: of the prompts.
        encode: the model's texts.
        seed: of the resamples and the guesses.

    Raises:
        DataError: no image has a class, or a class has no name.
    """
    known = images.chosen(lambda item: item.classes is not None)
    if not any(item.classes for item in known.items):
        raise DataError("no image has a class: add a list `classes` of class numbers to the .json")
    highest = max(number for item in known.items for number in (*(item.classes or ()), *item.ignored_classes))
    classes_CD = _encoded_classes(highest, names, templates, encode)
    truth_CN = np.zeros((len(names), len(known.items)))
    for column, item in enumerate(known.items):
        truth_CN[list(item.ignored_classes), column] = IGNORED
        truth_CN[list(item.classes or ()), column] = 1
    scores_CN = similarity(classes_CD, known.features_ND).astype(np.float64)
    found_CM = average_precisions(scores_CN, truth_CN)[0]
    figures: Json = {
        "pictures": len(known.items),
        "without_class": len(images.items) - len(known.items),
        "templates": list(templates),
        "scores": _mean_precisions(scores_CN, truth_CN, np.random.default_rng(seed)),
        "class_precisions": [
            {
                "name": name,
                "pictures": int((truth_N == 1).sum()),
                "ignored": int((truth_N == IGNORED).sum()),
                "precision": None if np.isnan(found_M[0]) else float(found_M[0]),
            }
            for name, truth_N, found_M in zip(names, truth_CN, found_CM, strict=True)
        ],
    }
    texts = [", ".join(names[number] for number in item.classes or ()) for item in known.items]
    uids, shards = [item.uid for item in known.items], [item.uri for item in known.items]
    ranked = {
        f"{row} {name}": (scores_CN[row], truth_CN[row]) for row, name in enumerate(names)
    }  # two may share a name
    of_names = asked_digest(names)
    asked = [asked_digest([of_names, item.classes, item.ignored_classes]) for item in known.items]
    return Measured(figures, PerImage(uids, shards, texts, rankings=ranked, asked=asked), known.items)


def _mean_precisions(scores_CN: np.ndarray, truth_CN: np.ndarray, rng: np.random.Generator) -> list[Json]:
    """The figures in the form of those of groups; each image is a group."""
    images = truth_CN.shape[1]
    values_M = mean_average_precisions(scores_CN, truth_CN)[0]
    drawn_BN = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float64)
    draws_BM = mean_average_precisions(scores_CN, truth_CN, drawn_BN)
    guessed = [mean_average_precisions(rng.random(truth_CN.shape), truth_CN)[0] for _ in range(GUESSES)]
    return [
        {
            "name": name,
            "value": float(value),
            "interval": list(interval(draws_B)),
            "chance": float(chance),
            "groups": images,
        }
        for name, value, draws_B, chance in zip(NAMES, values_M, draws_BM.T, np.mean(guessed, axis=0), strict=True)
    ]
