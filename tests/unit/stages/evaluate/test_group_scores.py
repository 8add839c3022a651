"""Winoground's, SugarCrepe's and WinoGAViL's scores, against cases worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from diht_k8s.stages.evaluate.group_tasks import (
    PAIR_CHANCE,
    chance_jaccard,
    choice_hit,
    group_score,
    jaccard,
    pair_hits,
)

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
