"""The references on the text's side find images by words that they have learned, and not by others."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from diht_k8s.stages.evaluate import text_ridge
from diht_k8s.stages.evaluate.ridge import RidgeReference
from diht_k8s.stages.evaluate.text_ridge import TextRidge, ridge_from_tokens, ridge_from_words

COLOURS = ["red", "green", "blue", "gold", "black", "purple", "white", "grey"]
THINGS = ["dog", "cat", "ball", "house", "tree", "car", "boat", "train"]
PAIRS = list(itertools.product(range(8), range(8)))
Fit = Callable[..., TextRidge]
both = pytest.mark.parametrize("fit", [ridge_from_words, ridge_from_tokens])


def fitted(fit: Fit, captions: list[str] | None = None, loud: float = 0.0) -> RidgeReference:
    """64 pairs of a colour and a thing, shown three times; features are their sum, and `loud` noise in one direction."""
    rng = np.random.default_rng(0)
    colours, things = rng.normal(size=(2, 8, 16))
    clean = np.array([colours[c] + things[t] for c, t in PAIRS])
    train = np.tile(clean, (3, 1)) + rng.normal(size=(192, 16)) * np.array([loud, *[0.1] * 15])
    test = clean + rng.normal(size=clean.shape) * np.array([loud, *[0.1] * 15])
    said = [f"a {COLOURS[c]} {THINGS[t]}" for c, t in PAIRS]
    ridge = fit(train.astype(np.float32), said * 3)
    return ridge.reference(test, captions or said, np.arange(64), np.random.default_rng(1))


@both
def test_captions_of_known_words_find_their_images(fit: Fit) -> None:
    found = fitted(fit).retrieval
    assert found.text_to_image.recall[1] > 0.9
    assert found.image_to_text.recall[1] > 0.9


@both
def test_captions_of_unknown_words_find_no_more_than_chance(fit: Fit) -> None:
    found = fitted(fit, ["\u0434\u0430"] * 64).retrieval.text_to_image
    assert found.recall == pytest.approx(found.chance)


def test_whitening_keeps_a_loud_direction_from_drowning_the_others() -> None:
    plain, white = (
        fitted(fit, loud=20.0).retrieval.text_to_image.recall[1] for fit in (ridge_from_words, ridge_from_tokens)
    )
    assert white > plain + 0.2


def test_terms_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_ridge, "MOST_WORDS", 5)
    assert fitted(ridge_from_words).words == 5


@pytest.mark.parametrize("named", [False, True])
def test_class_names_teach_words_that_no_caption_has(named: bool) -> None:
    rng = np.random.default_rng(0)
    things = rng.normal(size=(8, 16))
    numbers = rng.integers(8, size=400)
    features = (things[numbers] + 0.1 * rng.normal(size=(400, 16))).astype(np.float32)
    captions = [f"a {THINGS[number]}" if number < 6 else "a thing" for number in numbers]
    classes = (THINGS, (things - things.mean(axis=0)).astype(np.float64)) if named else None
    ridge = ridge_from_tokens(features, captions, classes)
    found = ridge.reference(things, THINGS, np.arange(8), np.random.default_rng(1)).retrieval.text_to_image
    ranks_of_unsaid = found.hits_KN[0, 6:]
    assert (ranks_of_unsaid.mean() > 0.9) == named
