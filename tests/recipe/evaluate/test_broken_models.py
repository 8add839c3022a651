"""A model that is broken ends the stage with exit code 65, or its page says what is wrong with its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from diht_k8s.api.errors import DataError, ExitCode
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate import encoding
from diht_k8s.stages.evaluate.encoding import read_encoded, write_encoded
from tests.recipe.evaluate.small_run import document, evaluate, page, results


def fill_weights(folder: Path, part: str, value: float) -> None:
    """Fill all weights of the trained model whose names hold a part."""
    (file,) = folder.glob("out/train/*/model/open_clip_model.safetensors")
    weights = load_file(file)
    names = [name for name in weights if part in name]
    assert names, part
    for name in names:
        weights[name].fill_(value)
    save_file(weights, file)


def test_model_that_is_not_finite_ends_the_stage_with_65_and_writes_no_figure(fresh: Path) -> None:
    fill_weights(fresh, "visual.", np.nan)
    said = "evaluate.benchmarks pairs: .*24 of 24 images .* the first of '9000-0'"
    with pytest.raises(DataError, match=said) as caught:
        evaluate(document(fresh))
    assert caught.value.exit_code is ExitCode.BAD_DATA
    output = fresh / "out/runs/latest/evaluate"
    assert not (output / "COMMITTED.json").exists()
    assert not list(output.glob("benchmarks/*"))
    assert all(set(benchmark) == {"name", "type", "error"} for benchmark in results(fresh)["benchmarks"])


def test_model_that_tells_nothing_apart_is_marked_in_results_report_and_page(fresh: Path) -> None:
    fill_weights(fresh, "visual.conv1", 0.0)
    said = "all images have the same features"
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
