"""Texts without their padding: the same features, and less work."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from diht_k8s.models import features
from diht_k8s.models.features import encode_texts, encode_truncated, text_lengths
from diht_k8s.models.loading import load_model
from tests.recipe.evaluate.small_run import CONFIG, export_model

TEXTS = ["", "a box", "a red disc in front of a gold bar", "word " * 40, "a box and a bar"]


def config(**text: Any) -> dict[str, Any]:
    return {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "context_length": 24, "layers": 2, **text}}


CASES = {
    "CLIP": config(),
    "end token": config(pool_type="eos", eos_id=49407),
    "looks both ways": config(no_causal_mask=True),
    "last place": config(pool_type="last"),
    "other class": {**config(), "custom_text": True},
}


@pytest.mark.parametrize("name", list(CASES))
def test_texts_when_padding_is_left_out_have_the_features_of_open_clip(tmp_path: Path, name: str) -> None:
    export_model(tmp_path, CASES[name])
    reference = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
        expected = reference.encode_text(tokens, normalize=True).numpy()
    loaded = load_model(str(tmp_path))
    assert np.abs(encode_texts(loaded, TEXTS) - expected).max() <= 1e-6
    assert np.abs(encode_texts(loaded, TEXTS[:3]) - expected[:3]).max() <= 1e-6  # none of them is long


@pytest.mark.parametrize(("name", "shorter"), [("CLIP", True), ("end token", True), ("looks both ways", False)])
def test_places_when_the_tower_looks_back_only_end_with_the_text(name: str, shorter: bool) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**{key: dict(v) if isinstance(v, dict) else v for key, v in CASES[name].items()})
    tokens = open_clip.SimpleTokenizer(context_length=24)(TEXTS)
    assert text_lengths(model, tokens).tolist() == ([2, 4, 11, 24, 7] if shorter else [24] * 5)
    seen: list[int] = []
    model.ln_final.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    encode_truncated(model, tokens[:2], 4 if shorter else 24)
    assert seen == [4 if shorter else 24]


@pytest.mark.parametrize("name", list(CASES))
def test_texts_without_padding_are_counted_as_those_that_may_be_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SORTED_TEXTS", 3)
    export_model(tmp_path, CASES[name])
    lengths = Counter[str]()
    encode_texts(load_model(str(tmp_path)), [*TEXTS, *TEXTS, "word " * 21, "word " * 22, "word " * 23], lengths)
    assert lengths == {"texts": 8, "full": 3}  # 24 places: two of them begin and end the text


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["".join(each) for each in product("wW", "oO", "rR", "dD")][:13], id="upper case"),
        pytest.param([f"{'word ' * 40}{number}" for number in range(13)], id="cut off"),
    ],
)
def test_texts_when_their_tokens_are_equal_have_equal_features(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SORTED_TEXTS", 3)
    export_model(tmp_path, CASES["CLIP"])
    loaded = load_model(str(tmp_path))
    found = encode_texts(loaded, [*texts[:7], *TEXTS[:3], *texts[7:]])
    assert [len({row.tobytes() for row in part}) for part in (np.delete(found, [7, 8, 9], axis=0), found[7:10])] == [
        1,
        3,
    ]
    assert found[7:10] == pytest.approx(encode_texts(loaded, TEXTS[:3]), abs=1e-6)
