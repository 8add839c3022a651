"""The ridge references: above chance where pixels tell words, at chance where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diht_k8s.stages.evaluate.ridge import raw_pixels, ridge_to_words

WORDS = ["red", "green", "blue", "cyan", "olive", "plum", "rust", "sand", "teal", "wine"]


def pairs(number: int, informative: bool, seed: int):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, len(WORDS), size=(number, 3))
    signal = np.random.default_rng(9).normal(size=(len(WORDS), 16))[words].sum(axis=1)
    features = signal if informative else rng.normal(size=(number, 16))
    return features + 0.05 * rng.normal(size=(number, 16)), [" ".join(WORDS[w] for w in row) for row in words]


@pytest.mark.parametrize("informative", [True, False])
def test_reference_when_features_tell_words_beats_chance_else_not(informative: bool) -> None:
    train, captions = pairs(400, informative, seed=1)
    tests, test_captions = pairs(100, informative, seed=2)
    fitted = ridge_to_words(train, captions, np.random.default_rng(0))
    result = fitted.reference(tests, test_captions, np.arange(100), np.random.default_rng(0))
    found, chance = result.retrieval.text_to_image.recall[10], result.retrieval.text_to_image.chance[10]
    assert (found > 4 * chance) if informative else (found < 3 * chance)
    assert (result.pairs, result.words) == (400, 10)


def test_reference_when_a_caption_has_no_known_word_still_counts_it() -> None:
    train, captions = pairs(400, True, seed=1)
    tests, test_captions = pairs(100, True, seed=2)
    fitted = ridge_to_words(train, captions, np.random.default_rng(0))
    result = fitted.reference(tests, ["zzz", *test_captions[1:]], np.arange(100), np.random.default_rng(0))
    assert len(result.retrieval.text_to_image.ranks_Q) == 100


def test_raw_pixels_when_image_is_of_any_mode_are_432_values() -> None:
    pixels = raw_pixels(Image.new("RGB", (40, 20), (255, 0, 0)))
    assert pixels.shape == (432,)
    assert pixels[:3].tolist() == [1.0, 0.0, 0.0]
