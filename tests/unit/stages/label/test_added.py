"""Tests for the labels worth showing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from diht_k8s.stages.label.caption_concepts import KeptCaptions
from diht_k8s.stages.label.report import NONE, AddedLabels, CaptionUse, best_added, outside_caption
from diht_k8s.stages.label.soft_labels import HeadLabels, Labels
from diht_k8s.stages.label.vocabulary import Concepts, TeacherClass

NAMES = ("animal", "mammal", "flag", "sport", "signal flag")
ANIMAL, MAMMAL, FLAG, SPORT, SIGNAL_FLAG = range(len(NAMES))
CONCEPTS = Concepts(NAMES, (1,) * len(NAMES))


def captions(*objects: Sequence[str]) -> KeptCaptions:
    return KeptCaptions([str(n) for n in range(len(objects))], [list(o) for o in objects], [[] for _ in objects])


def different(*names: str, count: int = 6) -> list[list[str]]:
    """Captions that name these and one thing more, another each time."""
    return [[*names, f"thing {number}"] for number in range(count)]


def head(*rows: list[tuple[int, float]]) -> HeadLabels:
    ids = np.array([[number for number, _ in row] for row in rows], np.int64)
    return HeadLabels(ids, np.array([[probability for _, probability in row] for row in rows], np.float32))


def used(*parts: list[list[str]]) -> CaptionUse:
    use = CaptionUse(CONCEPTS)
    for part in parts:
        use.add(captions(*part))
    return use


OTHERS = different("other", count=60)
POOL = [different("animal", "mammal"), different("flag"), different("sport"), different("signal flag"), OTHERS]
COUNT = 4 * 6 + 60


@pytest.mark.parametrize(
    ("caption", "number", "lift"),
    [
        ([], ANIMAL, 1.0),
        (["unknown"], ANIMAL, 1.0),
        (["mammal"], ANIMAL, 7 / (36 / COUNT + 1)),
        (["animal"], MAMMAL, 7 / (36 / COUNT + 1)),
        (["sport"], FLAG, 1 / (36 / COUNT + 1)),
        (["mammal", "sport"], ANIMAL, 1 / (36 / COUNT + 1)),
        (["animal"], ANIMAL, 1.0),
    ],
    ids=[
        "no caption",
        "no class",
        "often together",
        "the other way",
        "never together",
        "the least of both",
        "named itself",
    ],
)
def test_score_of_a_class_is_its_probability_times_the_least_lift_beside_the_captions_objects(
    caption: list[str], number: int, lift: float
) -> None:
    (score,) = used(*POOL).scores(head([(number, 0.5)]), captions(caption))[0]
    assert score == pytest.approx(0.5 * lift)


@pytest.mark.parametrize(
    ("shard", "shown"),
    [
        (different("flag", count=5), True),
        (different("flag", count=4) + different("flag", count=4), False),
        ([["flag"]] * 30, False),
    ],
    ids=["five", "four twice", "one title of a collection"],
)
def test_class_is_shown_when_five_different_captions_name_it(shard: list[list[str]], shown: bool) -> None:
    assert used(shard, different("other", count=100)).shown()[FLAG] == shown


@pytest.mark.parametrize(("others", "shown"), [(18, True), (17, False)])
def test_class_is_not_shown_when_more_than_a_quarter_of_the_captions_name_it(others: int, shown: bool) -> None:
    use = used(different("flag"), different("other", count=others))
    assert (use.scores(head([(FLAG, 0.9)]), captions([]))[0, 0] > 0) == shown


def test_class_is_inside_the_caption_when_named_or_when_its_words_are() -> None:
    labels = head([(FLAG, 0.6), (ANIMAL, 0.4)], [(FLAG, 0.9), (SIGNAL_FLAG, 0.1)])
    found = outside_caption(labels, CONCEPTS, captions(["flag", "unknown"], ["maritime signal flag"]))
    assert found.tolist() == [[False, True], [False, False]]


def test_class_of_the_teachers_own_is_inside_the_caption_by_its_last_word() -> None:
    owl = Concepts(("flag", "great grey owl"), (5, 0), (TeacherClass(24, ("great grey owl", "great gray owl")),))
    assert outside_caption(head([(1, 0.6), (0, 0.4)]), owl, captions(["owl"])).tolist() == [[False, True]]


def test_best_added_class_is_the_one_outside_of_the_caption_with_the_highest_score_or_none() -> None:
    scores = np.array([[0.9, 0.3, 0.4], [0.9, 0.0, 0.0]])
    outside = np.array([[False, True, True], [False, True, True]])
    ids = np.array([[FLAG, SPORT, ANIMAL], [FLAG, SPORT, ANIMAL]])
    assert best_added(scores, outside, ids).tolist() == [ANIMAL, NONE]


def test_added_labels_when_counted_then_say_how_often_captions_of_unseen_images_name_the_same() -> None:
    rows = (
        [(ANIMAL, 0.9), (FLAG, 0.05)],
        [(ANIMAL, 0.8), (FLAG, 0.1)],
        [(FLAG, 0.3), (SPORT, 0.2)],
        [(ANIMAL, 0.0), (FLAG, 0.0)],
    )
    labels = Labels(["a", "b", "c", "d"], np.array([True, True, True, False]), head(*map(list, rows)), head([]), {})
    asked = captions(["unknown"], ["animal"], ["unknown"], ["unknown"])
    added = AddedLabels(used(*POOL))
    assert added.add(labels, asked) == ["animal", None, None, None]
    assert added.document() == {
        "measured_on": 3,
        "pictures": 0.3333,
        "none": 2,
        "commonest": [["animal", 1, 0.5]],
        "precision": 0.5,
    }


def test_added_label_when_another_is_shown_instead_then_counts_among_those_that_captions_do_not_name() -> None:
    rows = [(FLAG, 0.8), (SPORT, 0.1)], [(SPORT, 0.9), (FLAG, 0.8)], [(FLAG, 0.9), (SPORT, 0.1)]
    labels = Labels(["a", "b", "c"], np.ones(3, np.bool_), head(*map(list, rows)), head([]), {})
    added = AddedLabels(used(*POOL))
    assert added.add(labels, captions(["unknown"], ["unknown"], ["flag"])) == ["flag", "sport", None]
    assert added.document()["commonest"] == [["flag", 1, 0.3333], ["sport", 1, 0.0]]


def test_added_labels_when_no_image_was_held_out_then_there_is_no_precision() -> None:
    added = AddedLabels(used(*POOL), held_out=False)
    added.add(Labels(["a"], np.ones(1, np.bool_), head([(ANIMAL, 0.9)]), head([]), {}), captions([]))
    assert (added.document()["precision"], added.document()["commonest"]) == (None, [["animal", 1, None]])
