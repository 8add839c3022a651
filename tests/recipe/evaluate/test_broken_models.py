"""A model that is broken ends the stage with exit code 65, or its page says what is wrong with its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, ExitCode
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate import encoding
from diht_k8s.stages.evaluate.encoding import read_encoded, write_encoded
from tests.recipe.evaluate.small_run import document, evaluate, page, results

Weights = dict[str, torch.Tensor]


def filled(value: float, part: str) -> Callable[[Weights], None]:
    def spoil(weights: Weights) -> None:
        for name in _named(weights, part):
            weights[name].fill_(value)

    return spoil


def too_large(weights: Weights) -> None:
    """Activations that overflow also where they are added up in single precision."""
    for name in _named(weights, "visual.ln_post"):
        weights[name].fill_(3e38)


def deaf(weights: Weights) -> None:
    """Neither words nor their number count."""
    for name in ("token_embedding.weight", "positional_embedding"):
        weights[name].fill_(0.0)


def _named(weights: Weights, part: str) -> Iterable[str]:
    found = [name for name in weights if part in name]
    assert found, part
    return found


STOPS: dict[str, tuple[Callable[[Weights], None], str]] = {
    "image tower of NaN": (filled(np.nan, "visual."), "24 of 24 images .* the first of '9000-0'"),
    "text tower of NaN": (filled(np.nan, "text_projection"), "24 of 24 texts .* the first of 'a red disc number 0'"),
    "overflow": (too_large, "24 of 24 images"),
    "logit scale of NaN": (filled(np.nan, "logit_scale"), "the logit scale of the model"),
}
NOTED: dict[str, tuple[Callable[[Weights], None], str]] = {
    "blind image tower": (filled(0.0, "visual.conv1"), "all images have the same features"),
    "deaf text tower": (deaf, "all texts have the same features"),
}


def break_model(folder: Path, spoil: Callable[[Weights], None]) -> None:
    (file,) = folder.glob("out/train/*/model/open_clip_model.safetensors")
    weights = load_file(file)
    spoil(weights)
    save_file(weights, file)


@pytest.mark.parametrize("name", STOPS)
def test_model_that_is_not_finite_ends_the_stage_with_65_and_writes_no_figure(name: str, fresh: Path) -> None:
    spoil, said = STOPS[name]
    break_model(fresh, spoil)
    with pytest.raises(DataError, match=rf"evaluate.benchmarks pairs: .*{said}") as caught:
        evaluate(document(fresh))
    assert caught.value.exit_code is ExitCode.BAD_DATA
    output = fresh / "out/runs/latest/evaluate"
    assert not (output / "COMMITTED.json").exists()
    assert not list(output.glob("benchmarks/*"))
    assert all(set(benchmark) == {"name", "type", "error"} for benchmark in results(fresh)["benchmarks"])


@pytest.mark.parametrize("name", NOTED)
def test_model_that_tells_nothing_apart_is_marked_in_results_report_and_page(name: str, fresh: Path) -> None:
    spoil, said = NOTED[name]
    break_model(fresh, spoil)
    evaluate(document(fresh))
    output = fresh / "out/runs/latest/evaluate"
    assert any(said in note for note in json.loads((output / "benchmarks/000.json").read_text())["notes"])
    assert any(said in note for note in results(fresh)["notes"])
    assert said in page(fresh)
    assert said in (output / "README.md").read_text()


def test_stored_features_that_are_used_again_are_checked(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = document(fresh)
    with monkeypatch.context() as patch:
        patch.setattr("diht_k8s.stages.evaluate.measure.measure", lambda *args: pytest.fail("stopped here"))
        with pytest.raises(BaseException, match="stopped here"):
            evaluate(run)
    storage, uri = Storage(), str(fresh / "out/runs/latest/evaluate/features/00000.safetensors")
    key = _key(uri)
    found = read_encoded(storage, uri, key)
    assert isinstance(found, encoding.EncodedImages)
    found.features_ND = found.features_ND.copy()
    found.features_ND[5:8, 2] = np.nan
    write_encoded(storage, uri, key, found)
    monkeypatch.setattr(encoding, "encode_shard", lambda *args, **rest: pytest.fail("the stored features are used"))
    with pytest.raises(DataError, match=r"pairs: the features of 3 of 24 images .* the first of '9000-5'"):
        evaluate(run)


def _key(uri: str) -> str:
    from safetensors import safe_open

    with safe_open(uri, "np") as file:
        document: dict[str, Any] = json.loads(file.metadata()["diht"])
    return document["config_sha256"]
