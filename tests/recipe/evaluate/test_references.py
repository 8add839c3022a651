"""The closed-form references: which training pairs they read, and how the model differs from them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from diht_k8s.api.documents import load
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.report.per_image import PerImage
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.evaluate import references, training_pairs
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.references import References
from diht_k8s.stages.evaluate.retrieval import CUTOFFS
from diht_k8s.stages.evaluate.ridge import raw_pixels
from tests.folders import located
from tests.recipe.evaluate.small_run import CONFIG, document, draw, make_data, pairs

PERFECT = 24
"""Images of the held-out shard."""


@pytest.fixture
def alone(tmp_path: Path) -> DihtRun:
    """A run without other stages: its training pairs are the raw ones, 90."""
    make_data(tmp_path)
    return document(tmp_path, {"model": "ViT-B-32"}, filter=None, label=None, train=None)


def references_of(run: DihtRun, started: list[tuple[str, int]] | None = None) -> References:
    said: list[tuple[str, int]] = [] if started is None else started
    progress = SimpleNamespace(start=lambda step, total: said.append((step, total)), update=lambda done: None)
    layout = located(run.spec.data.output)
    context = SimpleNamespace(run=run, storage=Storage(), layout=layout, progress=progress, stop=StopFlag())
    return References(cast("Any", context))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def heldout_images(folder: Path) -> EncodedImages:
    uri = f"{folder}/heldout/0.tar"
    samples = list(read_samples(Storage(), uri))
    items = [BenchmarkImage(uri, each.key, each.uid, (each.caption,), None, digest=each.uid) for each in samples]
    return EncodedImages(items, np.zeros((len(items), 1), dtype=np.float32))


def model_hits(rate: float) -> PerImage:
    """A model that answers a share of all queries."""
    hits, ones = np.arange(PERFECT) < rate * PERFECT, np.ones(PERFECT)
    figures = {
        f"{name}, R@{cutoff}": (hits.astype(np.float64), ones)
        for name in ("caption to image", "image to caption")
        for cutoff in CUTOFFS
    }
    return PerImage([str(row) for row in range(PERFECT)], [], [], figures)


def test_difference_is_that_of_the_models_recall_and_the_references(alone: DihtRun, tmp_path: Path) -> None:
    found = references_of(alone).compare(heldout_images(tmp_path), [0], model_hits(0.75))
    (pixels,) = found["references"]
    assert (pixels["name"], pixels["pairs"]) == ("pixels", 90)
    for direction in ("text_to_image", "image_to_text"):
        assert pixels["difference"][direction]["value"] == pytest.approx(0.75 - pixels[direction]["recall"]["5"])
    assert found["notes"] == ["no reference from the teacher's features: the run has no committed label stage"]


def test_pairs_when_some_cannot_be_used_are_the_others(alone: DihtRun, tmp_path: Path) -> None:
    good = pairs(60, 1000)
    bad = [("x0", {"png": b"junk", "txt": b"a"}), ("x1", {"png": draw("red", "disc", 1)}), ("x2", {"txt": b"alone"})]
    write_samples(Storage(), f"{tmp_path}/raw/0.tar", [*good[:30], *bad, *good[30:]])
    found = references_of(alone).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert found["references"][0]["pairs"] == 60
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 60}


def test_pairs_when_the_training_names_its_own_shards_are_theirs(tmp_path: Path) -> None:
    make_data(tmp_path)
    write_samples(Storage(), f"{tmp_path}/own/0.tar", pairs(70, 5000))
    own = {"modelConfig": CONFIG, "samples": 100, "batchSize": 10, "shards": [f"{tmp_path}/own/*.tar"]}
    run = document(tmp_path, label=None, filter=None, train={**own, "distillation": {"mode": "Disabled"}})
    found = references_of(run).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert found["references"][0]["pairs"] == 70
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 70}


def test_references_when_no_training_caption_has_a_word_say_so(alone: DihtRun, tmp_path: Path) -> None:
    wordless = [(key, {"png": members["png"], "txt": b"?! 7"}) for key, members in pairs(60, 1000)]
    write_samples(Storage(), f"{tmp_path}/raw/0.tar", wordless)
    found = references_of(alone).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert (found["references"], found["notes"]) == ([], ["no references: no training caption has a word"])
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 60}


@pytest.mark.parametrize("shards", [1, 3])
def test_pairs_when_they_are_many_are_the_first(
    alone: DihtRun, tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_pairs, "MAX_PAIRS", 55)
    said: list[tuple[str, int]] = []
    for number in range(shards):
        part = pairs(90, 1000)[90 * number // shards : 90 * (number + 1) // shards]
        write_samples(Storage(), f"{tmp_path}/raw/{number}.tar", part)
    if shards > 1:  # what is not needed is not read
        (tmp_path / "raw/2.tar").write_bytes(b"no archive")
    found = references_of(alone, said)
    assert found.compare(heldout_images(tmp_path), [0], model_hits(1))["references"][0]["pairs"] == 55
    assert said[0][0] == "reference: training pairs"


@pytest.mark.parametrize(
    ("limit", "training", "note"),
    [
        (24, 90, None),
        (23, 90, "no references: more than 23 images"),
        (24, 50, None),
        (24, 49, "only 49 training pairs"),
    ],
)
def test_references_when_there_are_too_many_images_or_too_few_pairs_are_left_out(
    alone: DihtRun, tmp_path: Path, limit: int, training: int, note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "MAX_GALLERY", limit)
    write_samples(Storage(), f"{tmp_path}/raw/0.tar", pairs(training, 1000))
    found = references_of(alone).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert bool(found["references"]) is (note is None)
    assert note is None or note in found["notes"][0]
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": training}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "the run names no training pairs"),
        ({"sources": [{"name": "a", "shards": ["/no/such-*.tar"]}]}, "no shard matches"),
    ],
)
def test_references_when_there_are_no_pairs_say_why(tmp_path: Path, data: dict[str, Any], reason: str) -> None:
    make_data(tmp_path)
    spec = {**data, "output": f"{tmp_path}/out"}
    run = document(tmp_path, {"model": "ViT-B-32"}, data=spec, filter=None, label=None, train=None)
    found = references_of(run)
    result = found.compare(heldout_images(tmp_path), [0], model_hits(1))
    assert (result["references"], result["seen"]) == ([], None)
    assert reason in result["notes"][0]
    assert found.seen(heldout_images(tmp_path).items) is None


TEACHER: Any = SimpleNamespace(
    preprocess=lambda image: torch.tensor(raw_pixels(image)),
    features=lambda images_BD: images_BD,
    dimension=len(raw_pixels(Image.new("RGB", (8, 8)))),
    batch_size=4,
    threads=2,
    device=torch.device("cpu"),
)
"""Its features are the raw pixels."""
FEATURES = {
    "pixels": references._raw_pixels,
    "teacher": lambda context, images: references._teacher_features(context, TEACHER, images),
}


@pytest.mark.parametrize("seen_by", list(FEATURES))
def test_images_of_two_shards_with_the_same_uids_are_each_its_own(seen_by: str, alone: DihtRun, tmp_path: Path) -> None:
    context, items, expected = references_of(alone)._context, list[BenchmarkImage](), list[np.ndarray]()
    for number in range(2):
        uri = f"{tmp_path}/two/{number}.tar"
        images = [members["png"] for _, members in pairs(6, 100 * number)]
        write_samples(
            Storage(),
            uri,
            [(f"{row}", {"png": image, "json": f'{{"uid": "{row:03}"}}'.encode()}) for row, image in enumerate(images)],
        )
        items += [BenchmarkImage(uri, f"{row}", f"{row:03}", ("a",), None) for row in range(6)]
        expected += [raw_pixels(decode(image)) for image in images]
    captioned = EncodedImages(items, np.zeros((12, 1), dtype=np.float32))
    assert FEATURES[seen_by](context, captioned) == pytest.approx(np.stack(expected), abs=1e-3)


@pytest.mark.parametrize("seen_by", list(FEATURES))
def test_images_when_the_reference_decoder_reads_them_look_as_it_shows_them(seen_by: str, tmp_path: Path) -> None:
    make_data(tmp_path)
    evaluate = {"model": "ViT-B-32", "decode": "Reference"}
    run = document(tmp_path, evaluate, filter=None, label=None, train=None)
    drawn, uri = [Image.new("RGBA", (side, side), (255, 0, 0, 0)) for side in (4, 32)], f"{tmp_path}/odd/0.tar"
    write_samples(Storage(), uri, [(f"{row}", {"png": png(image), "txt": b"a"}) for row, image in enumerate(drawn)])
    items = [BenchmarkImage(uri, each.key, each.uid, ("a",), None) for each in read_samples(Storage(), uri)]
    found = FEATURES[seen_by](references_of(run)._context, EncodedImages(items, np.zeros((2, 1), dtype=np.float32)))
    assert found.tolist() == [raw_pixels(Image.new("RGB", (32, 32), "red")).tolist()] * 2


def test_documents_without_retrieval_need_no_decoded_pairs(alone: DihtRun) -> None:
    body = json.loads(alone.model_dump_json(by_alias=True, exclude_defaults=True))
    del body["spec"]["evaluate"]["benchmarks"][0]
    assert references_of(load(json.dumps(body), name="run.yaml"))._pairs.pixels == []
