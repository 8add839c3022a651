"""Text lines in any direction: pixels and boxes in, texts with confidences out.

A box says where a line lies, not where it begins. RapidOCR's crop turns tall boxes to the left, so text that runs upwards
comes out upside down, and so does a wide line that was turned by about 180 degrees. RapidOCR's defaults ask its
orientation classifier about every line. Here it is asked about tall lines, and about lines that were read with doubt: a
recogniser that sees a line upside down is rarely sure of its text. Upright lines cost nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from diht_k8s.stages.filter.text_spotting.matching import SpottedText

if TYPE_CHECKING:
    import numpy as np

TALL: Final = 1.5
"""Ratio of height to width from which RapidOCR turns a line when it cuts it out."""
DOUBTFUL: Final = 0.9
"""Confidence below which a line is read the other way round as well. On 60 lines turned by 60 to 270 degrees the wrong way
gave at most 0.89, the right way at least 0.96.
"""
SURE: Final = 0.9
"""Probability from which the classifier's word counts without a second reading; RapidOCR's own threshold."""


class Orientation(NamedTuple):
    """The classifier's answer about a line."""

    upside_down: bool
    probability: float
    """of that answer, 0.5 to 1."""


def read_lines(engine: Any, pixels: np.ndarray, boxes: Sequence[Any]) -> list[SpottedText]:
    """The text of each box, one for one; "" where nothing is legible.

    Args:
        engine: `RapidOCR` whose recogniser and classifier are loaded.
        pixels: image, height x width x 3 (BGR, uint8).
        boxes: corner points of the lines (4 x 2), clockwise from the upper left.
    """
    lines = list(engine.crop_text_regions(pixels, boxes))
    tall = [place for place, box in enumerate(boxes) if _is_tall(box)]
    known = dict(zip(tall, _orientations(engine, [lines[place] for place in tall]), strict=True))
    for place, orientation in known.items():
        if orientation.upside_down:
            lines[place] = _turned_over(lines[place])
    texts = _recognised(engine, lines)
    doubtful = [place for place, text in enumerate(texts) if text.confidence < DOUBTFUL]
    wide = [place for place in doubtful if place not in known]
    asked = dict(zip(wide, _orientations(engine, [lines[place] for place in wide]), strict=True))
    again = [place for place in doubtful if not _lies_right(known.get(place), asked.get(place))]
    for place, text in zip(again, _recognised(engine, [_turned_over(lines[place]) for place in again]), strict=True):
        texts[place] = max(texts[place], text, key=lambda one: one.confidence)
    return texts


def _lies_right(turned: Orientation | None, as_cut: Orientation | None) -> bool:
    """Whether the classifier is sure of the direction in which a line was read: a tall one as it said, another as cut."""
    if turned is not None:
        return turned.probability >= SURE
    return as_cut is not None and not as_cut.upside_down and as_cut.probability >= SURE


def _is_tall(box: np.ndarray) -> bool:
    """Whether RapidOCR turns the line, by its own measure of the box."""
    import numpy as np

    sides = [int(max(np.linalg.norm(box[a] - box[b]), np.linalg.norm(box[c] - box[d]))) for a, b, c, d in _SIDES]
    return sides[1] >= TALL * sides[0]


_SIDES: Final = ((0, 1, 2, 3), (0, 3, 1, 2))
"""Corners of the two sides that make a box's width, and its height."""


def _orientations(engine: Any, lines: Sequence[np.ndarray]) -> list[Orientation]:
    found = engine._load_cls_model()(list(lines)).cls_res if lines else []
    return [Orientation(label == "180", float(probability)) for label, probability in found]


def _recognised(engine: Any, lines: Sequence[np.ndarray]) -> list[SpottedText]:
    if not lines:
        return []
    read = engine.recognize_txt(list(lines))
    return [SpottedText(text, float(confidence)) for text, confidence in zip(read.txts, read.scores, strict=True)]


def _turned_over(line: np.ndarray) -> np.ndarray:
    """The line turned by 180 degrees."""
    import cv2

    return cv2.rotate(line, cv2.ROTATE_180)
