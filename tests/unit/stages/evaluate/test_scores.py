"""Items with equal features tie, wherever they stand; intervals by resampling, whatever the size of a block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from diht_k8s.stages.evaluate import (
    answer_ranking,
    classification,
    few_shot,
    group_tasks,
    retrieval,
    scores,
)
from diht_k8s.stages.evaluate.benchmark_images import Cue, VisualQuestion
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.scores import interval, query_scores, rate_interval, rate_intervals, similarity
from diht_k8s.stages.evaluate.soundness import TextEncoder
from tests.unit.stages.evaluate.stubs import image

WIDTHS = [64, 640]
"""Of features: BLAS rounds equal rows of these by their place, unless their number is a multiple of 4."""
ITEMS = [5, 10, 101]


def units(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((rows, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def constant(width: int) -> TextEncoder:
    """A model that gives every text the same features."""
    return TextEncoder(lambda texts: np.tile(units(1, width, 1), (len(texts), 1)), "constant", 1.0, width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("items", ITEMS)
def test_scores_when_features_are_equal_tie_wherever_they_stand(items: int, width: int) -> None:
    queries, others = units(9, width), units(items, width, 2)
    same = np.tile(units(1, width, 1), (items, 1))
    assert {len(set(query_scores(same, query).tolist())) for query in queries} == {1}
    assert {len(set(row)) for row in similarity(queries, same).tolist()} == {1}
    for mixed in (np.concatenate([others, others]), others):
        assert similarity(queries, mixed) == pytest.approx(queries @ mixed.T, abs=1e-6)
        assert query_scores(mixed, queries[0]) == pytest.approx(mixed @ queries[0], abs=1e-6)


def answered(items: int, width: int) -> None:
    """The last candidate is right: a draw gives each its chance."""
    options = tuple(str(number) for number in range(items))
    made = [image(row, questions=(VisualQuestion("?", options[-1:], options),)) for row in range(9)]
    images = EncodedImages(made, units(9, width))
    found = answer_ranking.rank_answers(images, [], ["{answer}"], constant(width), [0]).figures
    assert found["accuracy"] == pytest.approx(found["chance"]) == pytest.approx(1 / items)


def chosen(items: int, width: int) -> None:
    """No right caption is above the others."""
    captions = tuple(str(number) for number in range(items))
    made = [image(row, captions=captions) for row in range(9)]
    found = group_tasks.choose_captions(EncodedImages(made, units(9, width)), ["{}"], constant(width), [0])
    assert found.figures["scores"][0]["value"] == 0


def associated(items: int, width: int) -> None:
    """A wrong image wins over a right one of the same look."""
    made = [image(row, cues=(Cue("1", "owl", row == items - 1, items),)) for row in range(items)]
    images = EncodedImages(made, np.tile(units(1, width), (items, 1)))
    for seed in range(9):
        encode = TextEncoder(lambda texts, seed=seed: units(len(texts), width, seed), "seeded", 1.0, width)
        assert group_tasks.associate(images, ["{}"], encode, [0]).figures["scores"][0]["value"] == 0


def classified(items: int, width: int) -> None:
    """The first of equal classes is named."""
    made = [image(row, label=row % items) for row in range(4 * items + 1)]
    names, images = [str(number) for number in range(items)], EncodedImages(made, units(len(made), width))
    found = classification.classify(images, names, ["{}"], constant(width), None, [0]).figures
    assert found["named_classes"] == 1
    features, labels = images.features_ND, np.array([item.label for item in made])
    classes = np.tile(units(1, width, 1), (items, 1))
    curve = few_shot.few_shot_curve(features, labels, classes, [1], [np.random.default_rng(0)], names)
    assert curve.draws[0].zero_shot == pytest.approx(1 / items)


def labelled(items: int, width: int) -> None:
    """Images that look alike have one threshold: the precision is the share of images with the class."""
    made = [image(row, classes=(0,) if row == items - 1 else ()) for row in range(items)]
    images = EncodedImages(made, np.tile(units(1, width), (items, 1)))
    found = classification.rank_images(images, ["a", "b"], ["{}"], constant(width), [0]).figures
    assert found["scores"][1]["value"] == pytest.approx(1 / items)


def retrieved(items: int, width: int) -> None:
    """Every order of the captions is as likely, and those that are shown stand in the order of the gallery."""
    found = retrieval.direction(
        units(items, width),
        np.arange(items),
        np.tile(units(1, width, 1), (items, 1)),
        np.arange(items),
        np.random.default_rng(0),
    )
    assert found.recall[1] == pytest.approx(1 / items)
    order, _ = retrieval.top_items(units(9, width), np.tile(units(1, width, 1), (items, 1)), 5)
    assert order.tolist() == [list(range(5))] * 9


@pytest.mark.parametrize("task", [answered, chosen, associated, classified, labelled, retrieved])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("items", ITEMS)
def test_task_when_the_model_cannot_tell_its_items_apart_goes_by_its_rule_for_ties(
    task: Callable[[int, int], None], items: int, width: int
) -> None:
    task(items, width)


HITS, COUNTS = np.random.default_rng(1).random((3, 40)), np.ones(40)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interval_is_the_middle_95_percent_of_the_draws() -> None:
    assert tuple(interval(np.random.default_rng(0).permutation(np.arange(1001.0)))) == pytest.approx((25, 975))


@pytest.mark.parametrize("values", [1, 40, 280, 1 << 22], ids=["less than a draw", "one draw", "seven draws", "all"])
def test_draws_when_made_in_blocks_are_the_same_and_as_many(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    whole, drawn = rate_intervals(HITS, COUNTS, rng(), 200), list[int]()
    monkeypatch.setattr(scores, "_BLOCK_VALUES", values)
    monkeypatch.setattr(scores, "interval", lambda values_R: drawn.append(len(values_R)) or interval(values_R))
    assert np.array(rate_intervals(HITS, COUNTS, rng(), 200)) == pytest.approx(np.array(whole), abs=1e-12)
    assert drawn == [200] * 3


def test_intervals_when_hits_are_of_several_kinds_are_those_of_each_alone() -> None:
    together = rate_intervals(HITS, COUNTS, rng(), 1000)
    assert together == [rate_interval(hits_G, COUNTS, rng()) for hits_G in HITS]


def test_interval_of_few_groups_is_that_of_as_many_draws_as_there_are_groups() -> None:
    hits = np.repeat([0.0, 1.0], 10)
    found = rate_interval(hits, np.ones(20), np.random.default_rng(0), resamples=20_000)
    assert tuple(found) == pytest.approx((6 / 20, 14 / 20))  # 2.5 and 97.5 % of 20 tosses of a coin
