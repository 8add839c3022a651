"""The ridge start: the tower gives the regression's embeddings, and the regression finds what words tell of
features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP

from diht_k8s.api.errors import UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.model import token_ridge
from diht_k8s.stages.train.model.configurations import model_configuration, ridge_problem
from diht_k8s.stages.train.model.token_ridge import (
    ClassCaptions,
    TokenRidge,
    caption_counts,
    commonest_tokens,
    fit_ridge,
    pair_sums,
    require_fewer_dimensions,
    word_frequencies,
)
from diht_k8s.stages.train.text_start import start_as_ridge

VOCABULARY, FEATURES, DIMENSION, CONTEXT = 49408, 40, 16, 12
TOKENIZER = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT)
WORDS = (
    "red",
    "green",
    "blue",
    "small",
    "large",
    "house",
    "tree",
    "cat",
    "dog",
    "garden",
    "hat",
    "flag",
    "river",
    "lamp",
)
Pairs = tuple[NDArray[np.int64], NDArray[np.float32]]


def config(*, bias: bool = True, layers: int = 1, width: int = 20, **more: Any) -> dict[str, Any]:
    vision = {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": bias,
        "image_size": 32,
    }
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": width, "heads": 1, "layers": layers, **more}
    return {"embed_dim": DIMENSION, "vision_cfg": vision, "text_cfg": text}


def clip(**settings: Any) -> CLIP:
    torch.manual_seed(0)
    made: Any = CLIP(**config(**settings))
    made.visual.head.proj = torch.nn.Linear(FEATURES, DIMENSION, bias=settings.get("bias", True))
    return made.eval()


def tokens_of(captions: list[str]) -> NDArray[np.int64]:
    return TOKENIZER(captions).numpy()


def planted(pairs: int, seed: int, *, noise: float = 1.0) -> Pairs:
    """Features that words make together, far from zero, with noise that is strong in a few directions."""
    directions = np.random.default_rng(5).normal(size=(len(WORDS), FEATURES))
    loud = np.random.default_rng(6).normal(size=(3, FEATURES))
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(len(WORDS), int(rng.integers(1, 5)), replace=False) for _ in range(pairs)]
    clean = np.stack([directions[words].sum(axis=0) for words in chosen])
    features = 7 + clean + noise * (rng.normal(size=(pairs, FEATURES)) + 4 * rng.normal(size=(pairs, 3)) @ loud)
    return tokens_of([" ".join(WORDS[word] for word in words) for words in chosen]), features.astype(np.float32)


def solved(pairs: Pairs, *, bias: bool = True, classes: ClassCaptions | None = None) -> TokenRidge:
    found = fit_ridge(*pairs, VOCABULARY, DIMENSION, bias=bias, classes=classes)
    assert found is not None
    return found


def unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def embedded(model: CLIP, pairs: Pairs) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    visual: Any = model.visual
    with torch.no_grad():
        images = visual.head.proj(torch.from_numpy(pairs[1]))
        return unit(images.numpy()), unit(model.encode_text(torch.from_numpy(pairs[0])).numpy())


def hits(images: NDArray[np.floating], texts: NDArray[np.floating]) -> float:
    return float(((images @ texts.T).argmax(axis=1) == np.arange(len(images))).mean())


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_tower_when_started_then_it_gives_the_regressions_embeddings(layers: int, bias: bool) -> None:
    start = solved(planted(300, 1), bias=bias)
    model = clip(layers=layers, bias=bias)
    start_as_ridge(model, start)
    seen = planted(50, 2)
    texts = [*seen[0], *tokens_of(["a red zebra", "cat cat dog", " ".join(WORDS)])]  # unknown, repeated, cut
    tests = np.stack(texts), np.concatenate([seen[1], seen[1][:3]])
    images, captions = embedded(model, tests)
    np.testing.assert_allclose((captions * unit(start.texts(tests[0]))).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((images * unit(start.images(tests[1]))).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_start_when_words_make_the_features_then_captions_find_images_and_a_random_start_does_not(bias: bool) -> None:
    model, tests = clip(bias=bias), planted(100, 4)
    before = hits(*embedded(model, tests))
    start_as_ridge(model, solved(planted(1000, 3), bias=bias))
    assert hits(*embedded(model, tests)) > 0.4 > 0.1 > before


def test_features_when_projected_without_a_bias_then_centred_nearly_as_with_one() -> None:
    pairs = planted(1000, 3)
    for bias in (True, False):
        found = solved(pairs, bias=bias).images(pairs[1])
        assert np.linalg.norm(found.mean(axis=0)) < 0.1 * np.linalg.norm(found, axis=1).mean()


def test_classes_when_named_then_words_that_no_caption_has_find_their_images() -> None:
    tokens, features = planted(1000, 3)
    lamp = tokens_of(["lamp"])[0, 1]
    without = ~(tokens == lamp).any(axis=1)
    mean, covariance = features.mean(axis=0), np.cov(features.T)
    weights = np.linalg.solve(covariance, (features[~without].mean(axis=0) - mean)[:, None]).T.astype(np.float64)
    pairs, names = (tokens[without], features[without]), tokens_of(["lamp"])
    model, seen = clip(), (names, features[~without].mean(axis=0)[None])
    start_as_ridge(model, solved(pairs))
    unnamed = embedded(model, seen)
    start_as_ridge(model, solved(pairs, classes=(names, weights)))
    named = embedded(model, seen)
    assert float((unnamed[0] * unnamed[1]).sum()) < 0.3
    assert float((named[0] * named[1]).sum()) > 0.9


def test_vectors_when_given_then_words_that_no_caption_has_mean_what_near_ones_do() -> None:
    tokens, features = planted(1000, 3)
    numbers = {word: int(tokens_of([word])[0, 1]) for word in (*WORDS, "torch")}
    vectors = np.zeros((VOCABULARY, 20))
    for word, vector in zip(WORDS, np.random.default_rng(8).normal(size=(len(WORDS), 20)) / 5, strict=True):
        vectors[numbers[word]] = vector
    vectors[numbers["torch"]] = vectors[numbers["lamp"]]
    found = fit_ridge(tokens, features, VOCABULARY, DIMENSION, bias=True, vectors=vectors)
    assert found is not None
    assert numbers["torch"] in found.tokens_V
    model, seen = clip(width=24), np.stack(tokens_of(["lamp", "torch", "cat"]))
    start_as_ridge(model, found)
    _, (lamp, torch_, cat) = embedded(model, (seen, features[:3]))
    np.testing.assert_allclose(unit(found.texts(seen)), np.stack([lamp, torch_, cat]), atol=1e-5)
    assert lamp @ torch_ > 0.7 > 0.3 > cat @ torch_


def test_sums_when_pairs_are_divided_then_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, features = planted(100, 1)
    tokens_V = commonest_tokens(word_frequencies(tokens, VOCABULARY))
    counts = caption_counts(tokens, tokens_V, VOCABULARY)
    whole = pair_sums(counts, features)
    monkeypatch.setattr(token_ridge, "ROWS", 7)
    parts = [pair_sums(counts[part], features[part]) for part in (slice(0, 30), slice(30, 100))]
    for one, two, both in zip(parts[0].parts, parts[1].parts, whole.parts, strict=True):
        np.testing.assert_allclose(one + two, both, rtol=1e-12)


def test_tokens_when_too_many_then_the_commonest_and_of_captions_the_words_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = tokens_of(["red cat", "red dog", "cat red cat"])
    red, cat, dog = (int(tokens_of([word])[0, 1]) for word in ("red", "cat", "dog"))
    frequencies = word_frequencies(tokens, VOCABULARY)
    assert {int(token): int(frequencies[token]) for token in np.flatnonzero(frequencies)} == {red: 3, cat: 3, dog: 1}
    assert commonest_tokens(frequencies).tolist() == sorted((red, cat, dog))
    monkeypatch.setattr(token_ridge, "MAX_TOKENS", 2)
    assert commonest_tokens(frequencies).tolist() == sorted((red, cat))
    counts = caption_counts(tokens, np.array(sorted((red, cat))), VOCABULARY).toarray()
    expected = np.array([[1, 1], [1, 0], [1, 2]]) / np.sqrt([[2], [2], [3]])
    np.testing.assert_allclose(counts[:, [0, 1] if red < cat else [1, 0]], expected)


def test_tower_when_started_then_every_weight_but_those_before_zeros_can_learn() -> None:
    model = clip(layers=2)
    start_as_ridge(model, solved(planted(300, 1)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    tokens_NT, features_NF = planted(60, 2)
    visual: Any = model.visual
    before = {name: value.clone() for name, value in model.named_parameters() if "visual.trunk" not in name}
    for _ in range(3):
        images = torch.nn.functional.normalize(visual.head.proj(torch.from_numpy(features_NF)))
        texts = torch.nn.functional.normalize(model.encode_text(torch.from_numpy(tokens_NT)))
        logits = model.logit_scale.exp() * images @ texts.T
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now = dict(model.named_parameters())
    assert [name for name, value in before.items() if torch.equal(value, now[name])] == []
    for old in (f"transformer.resblocks.{number}.attn.in_proj_weight" for number in (0, 1)):
        assert all(not torch.equal(*parts) for parts in zip(now[old].chunk(3), before[old].chunk(3), strict=True))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, None),
        ({"vision_cfg": {"layers": 12, "width": 32}}, "has no linear projection behind its image tower"),
        ({"vision_cfg": {"timm_model_name": "resnet18", "timm_proj": "mlp"}}, "has no linear projection"),
        ({"text_cfg": {"width": 18, "heads": 1}}, "18 wide, but embed_dim 16 needs 19"),
        ({"text_cfg": {"width": 19, "heads": 1}}, None),
        ({"embed_dim": 512, "text_cfg": {}}, "512 wide, but embed_dim 512 needs 515"),
        ({"text_cfg": {"width": 64, "pool_type": "first"}}, "with pool_type, which is not CLIP's own"),
    ],
)
def test_model_when_of_another_form_then_it_cannot_start_so(changed: dict[str, Any], problem: str | None) -> None:
    found = ridge_problem({**config(), **changed})
    assert found is None if problem is None else problem in (found or "")


def test_named_model_when_of_another_form_then_refused_before_ranks_start() -> None:
    assert model_configuration(Train(samples=1, model="ViT-B-32"))
    with pytest.raises(UserError, match=r"train.textStart Ridge: train.model ViT-B-32 has no linear projection"):
        model_configuration(Train(samples=1, model="ViT-B-32", text_start="Ridge"))


def test_dimensions_when_more_than_features_then_refused() -> None:
    require_fewer_dimensions(40, 40)
    with pytest.raises(UserError, match="embed_dim 41 is more than the 40 features"):
        require_fewer_dimensions(41, 40)
