"""Prompt ensembling, accuracies, confusions and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score

from diht_k8s.api.errors import DataError
from diht_k8s.stages.evaluate.class_texts import ensemble_prompts, fill, prompts
from diht_k8s.stages.evaluate.classification import (
    by_group,
    classification,
    macro_f1,
    rank_images,
)
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.soundness import TextEncoder
from tests.unit.stages.evaluate.stubs import image, one_hot


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("template", "text", "filled"),
    [
        ("a photo of {}.", "cat", "a photo of cat."),
        ("a {c} {in} braces", "cat", "a cat {in} braces"),
        ("{}", "{c} {0}", "{c} {0}"),
    ],
)
def test_fill_when_text_or_template_has_braces_leaves_them(template: str, text: str, filled: str) -> None:
    assert fill(template, text) == filled


def test_prompts_when_templates_are_several_keep_a_class_together() -> None:
    assert prompts(["a", "b"], ["x {}", "y {}"]) == ["x a", "y a", "x b", "y b"]


def test_ensembles_when_templates_are_several_are_unit_means() -> None:
    features = np.array([[1, 0], [0, 1], [0, -1], [0, -1]], dtype=np.float32)
    assert ensemble_prompts(features, 2) == pytest.approx(np.array([[2**-0.5, 2**-0.5], [0, -1]]))


def test_classification_when_classes_are_uneven_tells_accuracy_from_balanced_accuracy() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    scores = np.tile([1.0, 0.0], (10, 1))
    result = classification(scores, labels, rng())
    assert (result.top1, result.majority, result.balanced, result.chance) == (0.8, 0.8, 0.5, 0.5)
    assert result.per_class == [1.0, 0.0]
    assert result.confusion_CC.tolist() == [[8, 0], [2, 0]]
    assert result.top5 is None
    assert result.balanced_interval.low < 0.5 < result.balanced_interval.high
    assert result.top1_interval.low < 0.8 < result.top1_interval.high


def test_balanced_interval_when_classes_have_one_image_each_is_as_wide_as_that_of_top1() -> None:
    named = np.arange(50) - np.arange(50) % 2  # every other class is right
    result = classification(np.eye(50)[named], np.arange(50), rng())
    assert result.balanced == result.top1 == 0.5
    draws = 2 / 50  # the two intervals have their own; the difference is two images at most
    assert tuple(result.balanced_interval) == pytest.approx(tuple(result.top1_interval), abs=draws)
    assert result.balanced_interval.low < 0.4 < 0.6 < result.balanced_interval.high


def test_classification_when_more_than_five_classes_gives_top5() -> None:
    scores = np.tile(np.arange(6, 0, -1.0), (6, 1))
    result = classification(scores, np.arange(6), rng())
    assert result.top1 == pytest.approx(1 / 6)
    assert result.top5 == pytest.approx(5 / 6)
    assert result.hits_2N.tolist() == [[True] + [False] * 5, [True] * 5 + [False]]


def test_classification_when_a_class_has_no_image_leaves_it_out_of_the_mean() -> None:
    result = classification(np.eye(3)[[0, 1]], np.array([0, 1]), rng())
    assert result.per_class == [1.0, 1.0, None]
    assert result.balanced == 1.0
    assert result.chance == pytest.approx(1 / 3)  # a guess may name the third


def test_macro_f1_when_compared_with_scikit_learn_is_equal() -> None:
    labels, named = rng().integers(0, 6, 200), np.random.default_rng(1).integers(0, 7, 200)
    confusion = np.zeros((8, 8), dtype=np.int64)  # class 6 is named and never true, class 7 neither
    np.add.at(confusion, (labels, named), 1)
    expected = f1_score(labels, named, average="macro", labels=np.unique(labels))
    assert macro_f1(confusion) == pytest.approx(expected, abs=1e-12)


def test_groups_when_images_have_them_tell_the_worst_first() -> None:
    hits = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 0, 1]], dtype=bool)
    found = by_group(hits, ["north", "north", "south", "south", None])
    assert [(group.name, group.images, group.top1, group.top5) for group in found] == [
        ("south", 2, 0.0, 0.5),
        ("north", 2, 1.0, 1.0),
    ]


@pytest.mark.parametrize(
    "groups",
    [["north"] * 5, [None] * 5, ["1", "2", "3", "4", "5"], ["1", "2", "3", None, None]],
    ids=["one", "none", "numbers of images", "numbers of some"],
)
def test_groups_that_tell_nothing_are_left_out(groups: list[str | None]) -> None:
    assert by_group(np.ones((2, 5), dtype=bool), groups) == []


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
