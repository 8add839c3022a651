"""Questions and pairs, imported and evaluated, equal figures worked out from the originals, one image at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diht_k8s.api.documents import load
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.models.features import encode_texts
from diht_k8s.models.loading import LoadedModel, load_model
from diht_k8s.report.per_image import per_image_path, read_per_image
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import stage as program
from diht_k8s.stages.evaluate.catalogue.discovery import benchmark_of, candidate_folders, find_unlisted
from tests.recipe.evaluate.imports.drawings import IMAGES
from tests.recipe.evaluate.imports.originals import ORIGINALS
from tests.recipe.evaluate.small_run import COLOURS, encode_images, export_model


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[dict[str, dict[str, list[float]]], LoadedModel]:
    """Hits of each image (or group) by the name of the original, and the model."""
    for name, options in {"vqav2": ["--answers", "6"], "snli_ve": [], "winoground": []}.items():
        source = ORIGINALS[name](tmp_path / "in" / name)
        assert main(["benchmarks", "import", str(source), f"{tmp_path}/out/our_{name}", *options]) == 0
    export_model(tmp_path / "model")
    storage, root = Storage(), f"{tmp_path}/out"
    parts = [benchmark_of(each, storage) for each in find_unlisted(root, storage, candidate_folders(root, storage), ())]
    benchmarks = [part.model_dump(by_alias=True, mode="json") for part in parts]
    evaluate = {"model": f"{tmp_path}/model", "benchmarks": benchmarks, "decode": "Reference"}
    spec = {"data": {"output": f"{tmp_path}/run"}, "evaluate": evaluate}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "all"}, "spec": spec}
    run_stage(program, load(json.dumps(document), name="all.yaml"), Stage.EVALUATE)
    hits: dict[str, dict[str, list[float]]] = {}
    for number, part in enumerate(parts):
        kept = read_per_image(storage, f"{tmp_path}/run/runs/latest/evaluate/{per_image_path(number)}")
        assert kept is not None
        hits[part.name.removeprefix("our_")] = {name: each[0].tolist() for name, each in kept.figures.items()}
    return hits, load_model(f"{tmp_path}/model")


def image_of(loaded: LoadedModel, path: Path) -> np.ndarray:
    return encode_images(loaded, [Image.open(path).convert("RGB")])[0]


def right_answers(loaded: LoadedModel, asked: list[tuple[Path, str, str]], options: list[str]) -> list[float]:
    """Number of right answers for each image, of (image, question, right answer)."""
    found: dict[Path, float] = {}
    for path, question, answer in asked:
        texts = encode_texts(loaded, [f"{question} {option}" for option in options])
        right = options[int(np.argmax(texts @ image_of(loaded, path)))] == answer
        found[path] = found.get(path, 0.0) + right
    return list(found.values())


def test_figures_when_questions_and_pairs_are_imported_are_those_of_the_originals(
    tmp_path: Path, evaluated: tuple[dict[str, dict[str, list[float]]], LoadedModel]
) -> None:
    hits, loaded = evaluated
    source = tmp_path / "in"
    asked = [
        (
            source / f"vqav2/val2014/COCO_val2014_{row // 2:012d}.jpg",
            f"what colour is it? ({row})",
            COLOURS[row // 2 % 6],
        )
        for row in range(IMAGES)
    ]
    commonest = sorted(COLOURS)  # each is said equally often
    assert hits["vqav2"]["accuracy"] == right_answers(loaded, asked, commonest)
    labels = ["entailment", "neutral", "contradiction"]
    asked = [
        (source / f"snli_ve/flickr30k_images/{row // 2}.jpg", f"it is {row}", labels[row % 4])
        for row in range(IMAGES)
        if row % 4 < 3
    ]
    assert hits["snli_ve"]["accuracy"] == right_answers(loaded, asked, labels)
    won = []
    for row in range(IMAGES // 2):
        images = [image_of(loaded, source / f"winoground/images/ex_{row}_img_{side}.png") for side in (0, 1)]
        captions = encode_texts(loaded, [f"{COLOURS[row % 6]} {side} over {1 - side}" for side in (0, 1)])
        (s00, s01), (s10, s11) = captions @ np.stack(images).T
        won.append((s00 > s10 and s11 > s01, s00 > s01 and s11 > s10))
    assert hits["winoground"]["text score"] == [float(text) for text, _ in won]
    assert hits["winoground"]["image score"] == [float(image) for _, image in won]
    assert hits["winoground"]["group score"] == [float(text and image) for text, image in won]
