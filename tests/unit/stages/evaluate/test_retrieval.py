"""Recall, ranks, ties, chance and intervals of retrieval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from diht_k8s.stages.evaluate import retrieval as module
from diht_k8s.stages.evaluate.retrieval import (
    chance_recall,
    direction,
    direction_json,
    expected_hits,
    retrieval,
)
from diht_k8s.stages.evaluate.scores import rate_interval


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_recall_when_captions_are_several_counts_the_best_of_them() -> None:
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[0, 1], [1, 0], [0.6, 0.8]], dtype=np.float32)
    result = retrieval(images, texts, np.array([0, 0, 1]), rng())
    assert result.image_to_text.recall[1] == 0.5  # image 0 finds its second caption; image 1 is beaten by (0, 1)
    assert result.text_to_image.recall[1] == pytest.approx(2 / 3)
    assert result.image_to_text.ranks_Q.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("higher", "tied", "right", "cutoff"),
    [(0, 1, 1, 1), (2, 3, 2, 4), (4, 2, 1, 5), (0, 5, 3, 2), (0, 2, 1, 4), (7, 2, 1, 5)],
)
def test_expected_hits_when_tied_equals_the_mean_over_all_orders(
    higher: int, tied: int, right: int, cutoff: int
) -> None:
    orders = list(itertools.permutations([False] * tied + [True] * right))
    share = sum(any(order[: max(0, cutoff - higher)]) for order in orders) / len(orders)
    found = expected_hits(np.array([higher]), np.array([tied]), np.array([right]), cutoff)
    assert found[0] == pytest.approx(share)


def test_standing_when_caption_stands_twice_ties_exactly_whatever_the_rounding() -> None:
    generator = rng()
    images = unit(generator.normal(size=(64, 33))).astype(np.float32)
    texts = np.concatenate([images, images[:1]])
    result = direction(images, np.arange(64), texts, np.concatenate([np.arange(64), [63]]), generator)
    assert result.ranks_Q[0] == 1.5
    assert result.recall[1] == pytest.approx(63.5 / 64)


def test_standing_when_an_image_repeats_its_caption_counts_both_among_the_tied() -> None:
    found = direction(np.array([[1.0, 0.0]]), np.array([0]), np.array([[1.0, 0.0]] * 3), np.array([0, 0, 1]), rng())
    assert found.ranks_Q.tolist() == pytest.approx([1 + 1 / 3])
    assert found.recall[1] == pytest.approx(2 / 3)


def test_direction_when_chunked_equals_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = rng()
    images, texts = (unit(generator.normal(size=(200, 8))).astype(np.float32) for _ in range(2))
    whole = direction(images, np.arange(200), texts, np.arange(200), rng())
    monkeypatch.setattr(module, "_BLOCK_SCORES", 200)
    chunked = direction(images, np.arange(200), texts, np.arange(200), rng())
    assert chunked.ranks_Q.tolist() == whole.ranks_Q.tolist()


def test_direction_when_a_query_has_no_right_item_says_which() -> None:
    with pytest.raises(ValueError, match="query 7"):
        direction(np.ones((1, 2)), np.array([7]), np.ones((1, 2)), np.array([0]), rng())


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("side", ["images", "captions"])
def test_retrieval_when_a_similarity_is_not_finite_says_so_instead_of_ranking_it_first(value: float, side: str) -> None:
    images, captions = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    (images if side == "images" else captions)[:1] = value
    with pytest.raises(ValueError, match="similarity is not finite"), np.errstate(invalid="ignore"):
        retrieval(images, captions, np.arange(3), rng())


def test_chance_when_captions_are_several_equals_a_simulation() -> None:
    gallery = np.repeat(np.arange(10), 5)
    generator = rng()
    hits = [0 in generator.permutation(gallery)[:5] for _ in range(20_000)]
    assert chance_recall(np.array([0]), gallery, 5) == pytest.approx(np.mean(hits), abs=0.01)


def test_chance_when_images_have_unlike_numbers_of_captions_is_the_mean_over_queries() -> None:
    assert chance_recall(np.array([0, 1]), np.array([0, 1, 1, 1]), 1) == pytest.approx(0.5)
    assert chance_recall(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 1) == pytest.approx(0.375)


def test_median_rank_is_that_of_the_middle_query() -> None:
    found = direction(np.eye(3), np.arange(3), np.array([[1.0, 0, 0], [0, 1, 2], [0, 0, 1]]), np.arange(3), rng())
    assert found.ranks_Q.tolist() == [1.0, 1.0, 2.0]
    assert direction_json(found)["median_rank"] == 1.0


def test_direction_when_images_have_several_captions_resamples_images() -> None:
    images = np.eye(40, dtype=np.float32)
    wrong = np.roll(images, 1, axis=0)
    captions = np.repeat(np.where(np.arange(40)[:, None] % 2 == 0, images, wrong), 5, axis=0)
    found = direction(captions, np.repeat(np.arange(40), 5), images, np.arange(40), rng())
    hits_by_image = np.where(np.arange(40) % 2 == 0, 5.0, 0.0)
    assert found.recall[1] == 0.5
    assert found.interval[1] == rate_interval(hits_by_image, np.full(40, 5.0), rng())
