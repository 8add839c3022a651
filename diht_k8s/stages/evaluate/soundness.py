"""The gate of the evaluation: features that enter and figures that leave are finite, and suspicious ones carry a note.
Pure.

Every comparison with NaN is False, so a model of NaN ranks each right item first: R@1 of 100 %. What is not finite
therefore ends the benchmark; what is finite and carries no information (features of zeros, the same features for
everything, a figure of exactly 0 or 100 %) is marked.

Shapes: N images or texts, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.report.overview import DIRECTIONS
from diht_k8s.report.per_image import PerImage

CONSTANT: Final = 1e-6
"""Features of unit length that differ by no more are the same: batches of another size round otherwise."""
NEARLY_ALL: Final = 0.99
"""Share of images or texts with the same features that is marked; below it a set may hold copies."""
SHOWN: Final = 60
"""Characters of a sample's name in a message."""

Json = Mapping[str, Any]


def require_finite_figures(result: Json, per_image: PerImage, name: str) -> None:
    """Compare the figures of a benchmark, before anything is written.

    Args:
        result: its document.
        per_image: each image's part in the figures.
        name: of the benchmark.

    Raises:
        DataError: a figure is not finite; it names the field or the image.
    """
    remedy = "check the model's weights, or report this as a fault of the program"
    for path, value in _numbers(result, ""):
        if not math.isfinite(value):
            raise DataError(f"evaluate.benchmarks {name}: its figure {path} is {value}: {remedy}")
    for figure, parts in (*per_image.figures.items(), *per_image.rankings.items()):
        wrong = np.flatnonzero(~np.isfinite(np.stack(parts)).all(axis=0))
        if wrong.size:
            uid = per_image.uids[wrong[0]]
            raise DataError(f"evaluate.benchmarks {name}: {figure} of {uid} is not finite: {remedy}")


def figure_notes(figures: Json) -> list[str]:
    """Notes on figures that a fault makes more often than a model: exactly 0 or 100 %, one class for all images."""
    found: list[str] = []
    shares = dict(_shares(figures))
    for value, shown in ((0.0, "0"), (1.0, "100")):
        if names := [name for name, share in shares.items() if share == value]:
            found.append(
                f"exactly {shown}\N{NO-BREAK SPACE}% in {', '.join(names)}: look at single images before you quote "
                f"it, a "
                "fault gives such a figure more often than a model"
            )
    if figures.get("named_classes") == 1 and np.count_nonzero(figures["class_pictures"]) > 1:
        found.append("the model names the same class for every image")
    return found


class FeatureGate:
    """The features of one side of a model: what passes is finite, and what says nothing is noted."""

    def __init__(self, model: str, side: str, width: int | None = None) -> None:
        """Begin with none.

        Args:
            model: its name, for messages.
            side: `images` or `texts`.
            width: D that the features must have; None for any.
        """
        self._model, self._side, self._width = model, side, width
        self._usual_D = np.zeros(0)
        self._number, self._alike, self._zeros, self._alike_name, self._first_zero = 0, 0, 0, "", ""
        self._several = False
        """whether two texts that differ, or two images, are alike."""

    def admit(self, features_ND: NDArray[np.floating], names_N: Sequence[str]) -> None:
        """Let features in.

        Args:
            features_ND: of images or texts.
            names_N: uid of each image, or the text itself.

        Raises:
            DataError: they are not finite, or of another width.
        """
        if not len(features_ND):
            return
        if self._width is not None and features_ND.shape[1] != self._width:
            raise DataError(
                f"the model {self._model} gives {self._side} {features_ND.shape[1]} features, and the other side "
                f"{self._width}: evaluate two towers that belong together"
            )
        finite_N = np.isfinite(features_ND).all(axis=1)
        if not finite_N.all():
            wrong = np.flatnonzero(~finite_N)
            raise DataError(
                f"the features of {len(wrong):,} of {len(features_ND):,} {self._side} by the model {self._model} "
                f"are NaN "
                f"or infinite, the first of {names_N[wrong[0]][:SHOWN]!r}: check its weights (a training that "
                f"diverged, "
                "an overflow in half precision)"
            )
        if not self._number:
            some_ND = features_ND[:: max(1, len(features_ND) // 1000)]
            self._usual_D = np.median(some_ND, axis=0)  # what more than half of them have, if they do
        alike = np.flatnonzero(np.abs(features_ND - self._usual_D).max(axis=1) <= CONSTANT)
        if alike.size and not self._alike:
            self._alike_name = names_N[alike[0]]
        self._several = self._several or any(names_N[row] != self._alike_name for row in alike.tolist())
        self._alike += len(alike)
        self._number += len(features_ND)
        zero = np.flatnonzero(np.abs(features_ND).max(axis=1) <= CONSTANT)
        if zero.size and not self._zeros:
            self._first_zero = names_N[zero[0]]
        self._zeros += len(zero)

    def notes(self) -> list[str]:
        """What the features that passed do not say: those of zeros, and the same ones for all."""
        found: list[str] = []
        if self._zeros:
            found.append(
                f"{self._zeros:,} of {self._number:,} {self._side} have features of zeros, the first is "
                f"{self._first_zero[:SHOWN]!r}"
            )
        if self._several and self._alike >= NEARLY_ALL * self._number:
            which = "all" if self._alike == self._number else f"{self._alike:,} of {self._number:,}"
            found.append(
                f"{which} {self._side} have the same features, so their scores are equal and no figure measures "
                f"the model"
            )
        return found


class TextEncoder:
    """The texts' side of a model, as the tasks use it."""

    def __init__(
        self, encode: Callable[[Sequence[str]], NDArray[np.float32]], model: str, logit_scale: float, width: int
    ) -> None:
        """Check what can be checked without a text.

        Args:
            encode: texts -> [T, D] unit features; equal texts have equal ones.
            model: its name.
            logit_scale: its learned inverse temperature.
            width: D of its images.

        Raises:
            DataError: the logit scale is not finite.
        """
        if not math.isfinite(logit_scale):
            raise DataError(f"the logit scale of the model {model} is {logit_scale}: check its weights")
        self.logit_scale = logit_scale
        self._encode, self._gate = encode, FeatureGate(model, "texts", width)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[T, D] of texts.

        Raises:
            DataError: they are not finite, or of another width than those of the images.
        """
        features_TD = self._encode(texts)
        self._gate.admit(features_TD, texts)
        return features_TD

    def notes(self) -> list[str]:
        """Notes on the texts so far."""
        return self._gate.notes()


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    """The numbers of a document with their places."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{path}[{number}]")


def _shares(figures: Json) -> Iterator[tuple[str, float]]:
    """The figures that chance does not make 100 %, by the names that the page gives them."""
    for key, direction in DIRECTIONS.items():
        for k, share in figures.get(key, {}).get("recall", {}).items():
            if figures[key]["chance"][k] < 1:
                yield f"{direction} R@{k}", share
    for key, shown in (("top1", "top-1"), ("top5", "top-5"), ("balanced", "mean per class"), ("accuracy", "accuracy")):
        if figures.get(key) is not None:
            yield shown, figures[key]
    for point in figures.get("few_shot", {}).get("points", []):
        yield f"few-shot probe of {point['shots']} shots", point["probe"]["mean"]
    for score in figures.get("scores", []):
        yield score["name"], score["value"]
