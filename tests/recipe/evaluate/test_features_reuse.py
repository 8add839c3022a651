"""Encoded shards are reused by the same model only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.stage import locate, run_stage
from diht_k8s.stages.evaluate import stage as program
from tests.recipe.evaluate.small_run import CONFIG, document, export_model, make_data


def alone(folder: Path, output: str) -> DihtRun:
    """An evaluation of the model in `folder/model`."""
    raw = {"sources": [{"name": "drawn", "shards": [f"{folder}/raw/*.tar"]}], "output": f"{folder}/{output}"}
    evaluate = {"model": f"{folder}/model", "fewShot": None}
    return document(folder, evaluate, data=raw, filter=None, label=None, train=None)


def figures(folder: Path, output: str) -> list[dict[str, Any]]:
    run_stage(program, alone(folder, output), Stage.EVALUATE)
    return json.loads((folder / output / "runs/latest/evaluate" / "report.json").read_text())["benchmarks"]


def test_shards_when_their_features_are_of_another_model_are_encoded_again(tmp_path: Path) -> None:
    make_data(tmp_path)
    export_model(tmp_path / "model")
    before = figures(tmp_path, "out")
    features = (tmp_path / "out/runs/latest/evaluate/features").resolve()
    torch.manual_seed(1)
    weights = {key: value.contiguous() for key, value in open_clip.CLIP(**CONFIG).state_dict().items()}
    save_file(weights, tmp_path / "model" / "open_clip_model.safetensors")
    copied = locate(program, alone(tmp_path, "copied"), Storage(), Layout(f"{tmp_path}/copied"), Stage.EVALUATE)[0]
    shutil.copytree(features, f"{copied.stage(Stage.EVALUATE)}/features")
    after, expected = figures(tmp_path, "copied"), figures(tmp_path, "new")
    assert after[0]["text_to_image"] == expected[0]["text_to_image"]
    assert after[1]["confusion"] == expected[1]["confusion"]
    assert after[0]["text_to_image"] != before[0]["text_to_image"]
