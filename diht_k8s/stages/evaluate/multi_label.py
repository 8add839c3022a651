"""MultiLabel: how well each class ranks the images that have it, where an image has several (PASCAL VOC 2007).

Shapes: N images, C classes, B resamples, M figures, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.report.average_precision import (
    IGNORED,
    NAMES,
    average_precisions,
    mean_average_precisions,
)
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate.class_texts import ensemble_prompts, prompts
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured, asked_digest
from diht_k8s.stages.evaluate.scores import RESAMPLES, interval, similarity
from diht_k8s.stages.evaluate.soundness import TextEncoder

GUESSES: Final = 20
"""Random orders whose mean is the figure of guessing: that of 11 points is above the share of images with the class."""

Array = NDArray[np.float64]


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
    if highest >= len(names):
        raise DataError(f"an image has class {highest}, but there are {len(names)} class names (0 to {len(names) - 1})")
    truth_CN = np.zeros((len(names), len(known.items)))
    for column, item in enumerate(known.items):
        truth_CN[list(item.ignored_classes), column] = IGNORED
        truth_CN[list(item.classes or ()), column] = 1
    classes_CD = ensemble_prompts(encode(prompts(names, templates)), len(names))
    scores_CN = similarity(classes_CD, known.features_ND).astype(np.float64)
    found_CM = average_precisions(scores_CN, truth_CN)[0]
    figures: dict[str, Any] = {
        "pictures": len(known.items),
        "without_class": len(images.items) - len(known.items),
        "templates": list(templates),
        "scores": _scores(scores_CN, truth_CN, np.random.default_rng(seed)),
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


def _scores(scores_CN: Array, truth_CN: Array, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The figures as those of groups are told; each image is one."""
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
