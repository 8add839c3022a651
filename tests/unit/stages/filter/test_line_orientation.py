"""Which lines the orientation classifier sees, and which are read twice; with a fake engine."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diht_k8s.stages.filter.text_spotting.rapidocr_engine import read_lines

WIDE = np.array([[0, 0], [40, 0], [40, 10], [0, 10]], np.float32)
TALL = np.array([[0, 0], [10, 0], [10, 40], [0, 40]], np.float32)
SQUARE = np.array([[0, 0], [10, 0], [10, 14], [0, 14]], np.float32)
PIXELS = np.zeros((50, 50, 3), np.uint8)
RIGHT, WRONG = "giraffe", "aparji6"


class FakeEngine:
    """Cuts out lines whose first pixel is set if they lie right; both models answer as told and count what they see."""

    def __init__(self, *, lies_right: bool, says: str, right: float, wrong: float) -> None:
        self._lies_right = lies_right
        label, probability = says.split()
        self._answer = (label, float(probability))
        self._confidence = {RIGHT: right, WRONG: wrong}
        self.asked = self.read = 0

    def crop_text_regions(self, pixels: np.ndarray, boxes: Sequence[Any]) -> list[np.ndarray]:
        line = np.zeros((2, 4, 3), np.uint8)
        line[(0, 0) if self._lies_right else (-1, -1)] = 255
        return [line.copy() for _ in boxes]

    def _load_cls_model(self) -> Any:
        def classify(lines: Sequence[np.ndarray]) -> Any:
            self.asked += len(lines)
            return SimpleNamespace(cls_res=[self._answer for _ in lines])

        return classify

    def recognize_txt(self, lines: Sequence[np.ndarray]) -> Any:
        self.read += len(lines)
        texts = [RIGHT if line[0, 0, 0] else WRONG for line in lines]
        return SimpleNamespace(txts=texts, scores=[self._confidence[text] for text in texts])


@pytest.mark.parametrize(
    ("box", "lies_right", "says", "right", "asked", "read", "text"),
    [
        (WIDE, True, "180 0.99", 0.95, 0, 1, RIGHT),
        (SQUARE, True, "180 0.99", 0.95, 0, 1, RIGHT),
        (WIDE, True, "0 0.95", 0.7, 1, 1, RIGHT),
        (WIDE, True, "180 0.99", 0.7, 1, 2, RIGHT),
        (WIDE, False, "180 0.95", 0.99, 1, 2, RIGHT),
        (WIDE, False, "0 0.6", 0.99, 1, 2, RIGHT),
        (WIDE, False, "0 0.95", 0.99, 1, 1, WRONG),
        (TALL, True, "0 0.99", 0.99, 1, 1, RIGHT),
        (TALL, False, "180 0.99", 0.99, 1, 1, RIGHT),
        (TALL, True, "180 0.6", 0.99, 1, 2, RIGHT),
        (TALL, False, "0 0.6", 0.99, 1, 2, RIGHT),
        (TALL, True, "180 0.99", 0.99, 1, 1, WRONG),
    ],
    ids=[
        "read surely",
        "tall below the ratio",
        "doubtful and surely upright",
        "doubtful, and the other way is worse",
        "upside down",
        "upside down and the classifier unsure",
        "upside down and the classifier surely wrong",
        "tall, runs down",
        "tall, runs up",
        "tall, and the classifier unsure and wrong",
        "tall, runs up, and the classifier unsure and wrong",
        "tall, and the classifier surely wrong",
    ],
)
def test_line_is_turned_only_where_it_is_tall_or_doubtful(
    box: np.ndarray, lies_right: bool, says: str, right: float, asked: int, read: int, text: str
) -> None:
    engine = FakeEngine(lies_right=lies_right, says=says, right=right, wrong=0.6)
    (found,) = read_lines(engine, PIXELS, [box])
    assert (found.text, engine.asked, engine.read) == (text, asked, read)
    assert found.confidence == (right if text == RIGHT else 0.6)


def test_lines_keep_their_order_and_each_is_judged_alone() -> None:
    engine = FakeEngine(lies_right=False, says="180 0.99", right=0.99, wrong=0.6)
    assert [found.text for found in read_lines(engine, PIXELS, [WIDE, TALL, SQUARE])] == [RIGHT] * 3
    assert (engine.asked, engine.read) == (3, 5)


def test_no_boxes_ask_no_model() -> None:
    engine = FakeEngine(lies_right=True, says="0 0.9", right=0.9, wrong=0.6)
    assert (read_lines(engine, PIXELS, []), engine.asked, engine.read) == ([], 0, 0)
