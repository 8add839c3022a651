"""Images with several classes: which of them count for a class, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.multi_label import rank_images
from diht_k8s.stages.evaluate.soundness import TextEncoder
from tests.unit.stages.evaluate.stubs import image, one_hot

NAMES = ["cat", "dog", "cow"]
ENCODE = one_hot(NAMES.index, 3)


def images(*said: tuple[Sequence[float], tuple[int, ...] | None, tuple[int, ...]]) -> EncodedImages:
    """Scores for the three names, classes and ignored classes of each."""
    items = [image(row, classes=classes, ignored_classes=ignored) for row, (_, classes, ignored) in enumerate(said)]
    return EncodedImages(items, np.array([scores for scores, _, _ in said], dtype=np.float32))


def test_image_counts_for_its_classes_against_the_others_and_not_where_it_is_ignored_or_unknown() -> None:
    found = rank_images(
        images(
            ([0.9, 0.9, 0], (1,), (0,)),
            ([0.8, 0.1, 0], (0, 1), (1,)),  # an object that is not difficult decides
            ([0.7, 0.2, 0], (), ()),
            ([0.6, 0.0, 0], (0,), ()),
            ([0.95, 0.95, 0], None, ()),
        ),
        NAMES,
        ["{}"],
        ENCODE,
        [0],
    )
    assert (found.figures["pictures"], found.figures["without_class"]) == (4, 1)
    cat, dog, cow = found.figures["class_precisions"]
    assert cat == {"name": "cat", "pictures": 2, "ignored": 1, "precision": pytest.approx((6 + 5 * 2 / 3) / 11)}
    assert dog == {"name": "dog", "pictures": 2, "ignored": 0, "precision": pytest.approx((6 + 5 * 2 / 3) / 11)}
    assert cow == {"name": "cow", "pictures": 0, "ignored": 0, "precision": None}
    values = [score["value"] for score in found.figures["scores"]]
    assert values == pytest.approx([(6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2])
    assert found.per_image.texts == ["dog", "cat, dog", "", "cat"]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (([0, 0, 1], None, (0,)), "no image has a class: add a list `classes`"),
        (([0, 0, 1], (), (0,)), "no image has a class: add a list `classes`"),
        (([0, 0, 1], (3,), ()), r"an image has class 3, but there are 3 class names \(0 to 2\)"),
        (([0, 0, 1], (0,), (3,)), "an image has class 3"),
    ],
    ids=["unknown", "none", "a number too high", "an ignored number too high"],
)
def test_images_without_classes_or_with_unnamed_ones_are_refused(
    said: tuple[Sequence[float], tuple[int, ...] | None, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rank_images(images(said), NAMES, ["{}"], ENCODE, [0])


def test_classes_that_share_a_name_keep_their_own_scores() -> None:
    encoder = TextEncoder(lambda texts: np.eye(3, dtype=np.float32)[: len(texts)], "order", 1.0, 3)
    found = rank_images(images(([1, 0, 0], (0,), ()), ([0, 1, 0], (1,), ())), ["crane", "crane"], ["{}"], encoder, [0])
    assert list(found.per_image.rankings) == ["0 crane", "1 crane"]
    assert [score["value"] for score in found.figures["scores"]] == [1.0, 1.0]
