"""Winoground's, SugarCrepe's and WinoGAViL's scores against cases worked out by hand, and the tasks that give them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from diht_k8s.api.errors import DataError
from diht_k8s.stages.evaluate import group_tasks
from diht_k8s.stages.evaluate.benchmark_images import Cue
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.group_tasks import (
    PAIR_CHANCE,
    chance_jaccard,
    choice_hit,
    group_score,
    jaccard,
    pair_hits,
)
from tests.unit.stages.evaluate.stubs import image, one_hot

CASES = {
    "both right": ([[0.9, 0.1], [0.2, 0.8]], (1, 1, 1)),
    "each image prefers its caption, caption 1 the wrong image": ([[0.9, 0.1], [0.5, 0.4]], (1, 0, 0)),
    "each caption prefers its image, image 1 the wrong caption": ([[0.9, 0.5], [0.1, 0.4]], (0, 1, 0)),
    "both wrong": ([[0.1, 0.9], [0.8, 0.2]], (0, 0, 0)),
    "captions that tie are no success": ([[0.5, 0.1], [0.5, 0.6]], (0, 1, 0)),
    "images that tie are no success": ([[0.5, 0.5], [0.1, 0.6]], (1, 0, 0)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_pair_hits_when_captions_and_images_meet_are_winogrounds(case: str) -> None:
    similarity, expected = CASES[case]
    found = pair_hits(np.array([similarity]))
    assert tuple(int(found[name][0]) for name in ("text score", "image score", "group score")) == expected


def test_pair_hits_when_similarities_are_random_orders_have_the_published_chance() -> None:
    orders = np.array(list(itertools.permutations(range(4))), dtype=np.float64).reshape(-1, 2, 2)
    assert {name: hits.mean() for name, hits in pair_hits(orders).items()} == pytest.approx(PAIR_CHANCE)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.3, 0.2], 1.0), ([0.2, 0.3], 0.0), ([0.3, 0.3], 0.0), ([0.3, 0.1, 0.4], 0.0), ([0.5, 0.1, 0.4], 1.0)],
)
def test_choice_when_the_right_caption_is_first_must_be_above_all_others(scores: list[float], expected: float) -> None:
    assert choice_hit(np.array(scores)) == expected


@pytest.mark.parametrize(
    ("scores", "associated", "expected"),
    [
        ([0.9, 0.8, 0.1, 0.0, 0.0], [1, 1, 0, 0, 0], 1.0),
        ([0.9, 0.1, 0.8, 0.0, 0.0], [1, 1, 0, 0, 0], 1 / 3),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1, 1, 0, 1, 0, 0], 2 / 4),
        ([0.5, 0.5, 0.5], [0, 1, 0], 0.0),
        ([0.5, 0.5, 0.9, 0.5], [1, 1, 1, 0], 2 / 4),
    ],
)
def test_jaccard_when_as_many_are_chosen_as_are_associated_equals_scikit_learns(
    scores: list[float], associated: list[int], expected: float
) -> None:
    truth = np.array(associated, dtype=bool)
    found = jaccard(np.array(scores), truth)
    assert found == pytest.approx(expected)
    wrong_first = sorted(range(len(scores)), key=lambda row: (-scores[row], associated[row]))
    chosen = np.isin(np.arange(len(scores)), wrong_first[: truth.sum()])
    assert found == pytest.approx(jaccard_score(truth, chosen))


def test_jaccard_when_nothing_is_associated_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        jaccard(np.array([1.0, 2.0]), np.array([False, False]))


@pytest.mark.parametrize(("candidates", "associated"), [(5, 2), (6, 3), (10, 2), (12, 5)])
def test_chance_when_all_choices_are_equally_likely_is_their_mean(candidates: int, associated: int) -> None:
    truth = np.arange(candidates) < associated
    found = []
    for choice in itertools.combinations(range(candidates), associated):
        chosen = np.isin(np.arange(candidates), choice)
        found.append((truth & chosen).sum() / (truth | chosen).sum())
    assert chance_jaccard(candidates, associated) == pytest.approx(np.mean(found))


def test_score_when_some_groups_do_not_count_is_the_mean_of_the_others_with_an_interval_over_groups() -> None:
    hits, weights = np.array([1.0, 0.5, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    found = group_score("Jaccard", hits, weights, 0.2, np.random.default_rng(0))
    assert found.value == pytest.approx(0.5)
    assert 0 <= found.interval.low < 0.5 < found.interval.high <= 1


LETTERS = one_hot(lambda text: "abcd".index(text[-1]), 4)
"""A text is the vector of its last letter."""


def images(items: list[dict[str, Any]], letters: str) -> EncodedImages:
    """Images that look like a letter."""
    made = [image(row, **item) for row, item in enumerate(items)]
    return EncodedImages(made, np.eye(4, dtype=np.float32)[["abcd".index(letter) for letter in letters]])


def test_task_of_pairs_when_a_group_lacks_an_image_leaves_it_out() -> None:
    items = [{"captions": (text,), "group": group} for text, group in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "2"))]
    lonely = {"captions": ("a",), "group": "3"}
    three = [{"captions": (text,), "group": "4"} for text in "abc"]
    silent = [{"captions": (text,), "group": "5", "lacks_first": text == "b"} for text in "ab"] + [{"group": "6"}] * 2
    silent += [{"captions": (text,) * bool(text), "group": "7"} for text in ("a", "b", "")] + [{"captions": ("a",)}]
    found = group_tasks.match_pairs(
        images([*items, lonely, *three, *map(dict, silent)], "abdcaabcabababca"), ["{}"], LETTERS, [0]
    )
    assert {each["name"]: each["value"] for each in found.figures["scores"]} == {
        "text score": 0.5,
        "image score": 0.5,
        "group score": 0.5,
    }
    assert (found.figures["groups_scored"], found.figures["left_out"], found.figures["pictures"]) == (2, 5, 4)
    assert found.figures["without_group"] == 1
    assert found.per_image.uids == ["1", "2"]
    assert [item.uid for item in found.images] == ["u0", "u1", "u2", "u3"]
    assert found.per_image.figures["group score"][0].tolist() == [1.0, 0.0]


def test_task_of_choices_when_an_image_stands_twice_makes_it_one_group() -> None:
    items = [
        {"captions": ("a", "b"), "digest": "same"},
        {"captions": ("c", "a"), "digest": "same"},
        {"captions": ("b", "c", "b"), "digest": "other"},
        {"captions": ("b",), "digest": "no wrong caption"},
        {"captions": ("c", "a"), "digest": "no right caption", "lacks_first": True},
        {"captions": ("a", "b"), "digest": "easier without one", "unusable_captions": {"caption_not_utf8": 1}},
    ]
    found = group_tasks.choose_captions(images(items, "aabbca"), ["{}"], LETTERS, [0])
    assert found.figures["scores"][0]["value"] == pytest.approx(1 / 3)
    assert found.figures["scores"][0]["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert (found.figures["questions"], found.figures["groups_scored"], found.figures["left_out"]) == (3, 2, 3)
    hits, weights = found.per_image.figures["accuracy"]
    assert (hits.tolist(), weights.tolist()) == ([1.0, 0.0], [2.0, 1.0])
    assert [item.uid for item in found.images] == ["u0", "u1", "u2"]


def test_task_of_cues_when_images_serve_several_counts_each_cue_once() -> None:
    def cue(group: str, text: str, associated: bool, candidates: int = 3) -> Cue:
        return Cue(group, text, associated, candidates)

    items = [
        {"cues": (cue("1", "a", True), cue("2", "b", True))},
        {"cues": (cue("1", "a", False), cue("2", "b", False))},
        {"cues": (cue("1", "a", False), cue("2", "b", False), cue("3", "d", True, 9))},
        {"cues": (cue("4", "d", True, 3), cue("5", "d", True, 2))},
        {"cues": (cue("4", "d", False, 3), cue("5", "d", True, 2), cue("6", "d", True, 2))},
        {"cues": (cue("6", "d", False, 2),), "unusable_cues": ("6", "7", "")},
        {"unusable_cues": ("7",)},
        {},
    ]
    found = group_tasks.associate(images(items, "abcddaaa"), ["{A} {}"], LETTERS, [0])
    assert found.figures["scores"] == [
        {
            "name": "Jaccard",
            "value": 0.5,
            "interval": found.figures["scores"][0]["interval"],
            "chance": pytest.approx(1 / 3),
            "groups": 2,
        }
    ]
    assert (found.figures["groups_scored"], found.figures["left_out"], found.figures["pictures"]) == (2, 5, 3)
    assert (found.figures["unusable_cues"], found.figures["without_group"]) == (4, 1)
    assert [item.uid for item in found.images] == ["u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("cues", "left_out"),
    [
        ([("1", "a", True), ("1", "b", False), ("1", "b", False)], 1),  # two questions under one name
        ([("1", "a", True), ("1", "a", False)], 1),  # one image is missing
        ([("1", "a", True), ("1", "a", False), ("1", "a", False), ("1", "a", False)], 1),  # one too many
        ([("1", "a", True), ("1", "a", False), ("1", "a", False)], 0),
    ],
)
def test_task_of_cues_counts_groups_that_are_not_one_whole_question(
    cues: list[tuple[str, str, bool]], left_out: int
) -> None:
    whole = [{"cues": (Cue("0", "a", place == 0, 2),)} for place in range(2)]
    items = [*whole, *({"cues": (Cue(group, text, associated, 3),)} for group, text, associated in cues)]
    found = group_tasks.associate(images(items, "ab" + "c" * len(cues)), ["{}"], LETTERS, [0])
    assert (found.figures["left_out"], found.figures["groups_scored"]) == (left_out, 2 - left_out)


def test_task_of_cues_does_not_count_an_image_that_is_listed_twice() -> None:
    twice = (Cue("1", "a", False, 3), Cue("1", "a", False, 3))
    items = [{"cues": (Cue("0", "a", place == 0, 2),)} for place in range(2)]
    items += [{"cues": (Cue("1", "a", True, 3),)}, {"cues": twice}]
    found = group_tasks.associate(images(items, "abcd"), ["{}"], LETTERS, [0])
    assert (found.figures["left_out"], found.figures["groups_scored"]) == (1, 1)


def test_task_of_cues_when_none_is_usable_says_how_many() -> None:
    with pytest.raises(DataError, match=r"no cue has its candidate images \(2 have no text, or an `associated` that"):
        group_tasks.associate(images([{"unusable_cues": ("1", "")}], "a"), ["{}"], LETTERS, [0])


def test_task_of_cues_when_sizes_differ_gives_each_size_its_own_figure() -> None:
    items: list[dict[str, Any]] = []
    for group in range(60):
        size, right = (5, True) if group < 30 else (10, False)
        for place in range(size):
            items.append({"cues": (Cue(str(group), "a", place == (0 if right else 1), size),)})
    letters = "".join("a" + "b" * (size - 1) for size in [5] * 30 + [10] * 30)
    found = group_tasks.associate(images(items, letters), ["{}"], LETTERS, [0])
    values = {each["name"]: (each["value"], each["groups"]) for each in found.figures["scores"]}
    assert values == {
        "Jaccard": (0.5, 60),
        "Jaccard of 5 to 6 candidates": (1.0, 30),
        "Jaccard of 10 to 12 candidates": (0.0, 30),
    }
    assert [each["chance"] for each in found.figures["scores"]] == pytest.approx([0.15, 0.2, 0.1])


def test_cue_has_its_article_in_the_prompt() -> None:
    asked: list[str] = []
    encode = one_hot(lambda text: asked.append(text) or 0, 4)
    items = [{"cues": (Cue("1", "owl", right, 2),)} for right in (True, False)]
    group_tasks.associate(images(items, "ab"), ["{A} {}"], encode, [0])
    assert asked == ["An owl"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (group_tasks.match_pairs, "no group has two images"),
        (group_tasks.choose_captions, "a right caption and a wrong one"),
        (group_tasks.associate, "no cue has its candidate images"),
    ],
)
def test_task_when_the_shards_hold_something_else_says_what_is_missing(task: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task(images([{"captions": ("a",)}], "a"), ["{}"], LETTERS, [0])


@pytest.mark.parametrize(("cue", "article"), [("owl", "An"), ("Owl", "An"), ("wolf", "A"), ("hour", "A")])
def test_article_is_datacomps(cue: str, article: str) -> None:
    assert group_tasks.article_of(cue) == article
