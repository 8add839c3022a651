"""The ridge reference: which training pairs it reads, and how the model differs from it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.report.per_image import PerImage
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.evaluate import ridge_reference
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.retrieval import CUTOFFS
from diht_k8s.stages.evaluate.ridge_reference import RidgeReference
from diht_k8s.stages.label import teacher
from diht_k8s.stages.train.model.token_ridge import TokenRidge, fit_ridge
from tests.folders import located
from tests.recipe.evaluate.small_run import (
    CONFIG,
    document,
    draw,
    make_data,
    make_run,
    pairs,
    write_teacher_features,
)

HELD_OUT = 24
"""Images of the held-out shard."""


def small_pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((12, 12), Image.Resampling.BOX), np.float32).ravel() / 255


TEACHER: Any = SimpleNamespace(
    preprocess=lambda image: torch.tensor(small_pixels(image)),
    features=lambda images_BD: images_BD,
    dimension=432,
    batch_size=4,
    threads=2,
    device=torch.device("cpu"),
    classifier=None,
)
"""Its features are the raw pixels."""


@pytest.fixture(autouse=True)
def _teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "load_teacher", lambda *_: TEACHER)


@pytest.fixture
def alone(tmp_path: Path) -> DihtRun:
    """A run without other stages: its training pairs are the raw ones, 90."""
    make_data(tmp_path)
    return document(tmp_path, {"model": "ViT-B-32"}, filter=None, label=None, train=None)


@pytest.fixture
def labelled(tmp_path: Path) -> DihtRun:
    """A run with teacher features of its 72 kept pairs."""
    run = document(tmp_path)
    make_run(tmp_path, run)
    write_teacher_features(run, TEACHER)
    return run


def reference_of(run: DihtRun, started: list[tuple[str, int]] | None = None) -> RidgeReference:
    said: list[tuple[str, int]] = [] if started is None else started
    progress = SimpleNamespace(start=lambda step, total: said.append((step, total)), update=lambda done: None)
    layout = located(run.spec.data.output)
    context = SimpleNamespace(run=run, storage=Storage(), layout=layout, progress=progress, stop=StopFlag())
    return RidgeReference(cast("Any", context))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def heldout_images(folder: Path, dimension: int = CONFIG["embed_dim"]) -> EncodedImages:
    """The held-out shard, as a model of a dimension encodes it."""
    uri = f"{folder}/heldout/0.tar"
    samples = list(read_samples(Storage(), uri))
    items = [BenchmarkImage(uri, each.key, each.uid, (each.caption,), None, digest=each.uid) for each in samples]
    return EncodedImages(items, np.zeros((len(items), dimension), dtype=np.float32))


def model_hits(rate: float) -> PerImage:
    """A model that answers a share of all queries."""
    hits, ones = np.arange(HELD_OUT) < rate * HELD_OUT, np.ones(HELD_OUT)
    figures = {
        f"{name}, R@{cutoff}": (hits.astype(np.float64), ones)
        for name in ("caption to image", "image to caption")
        for cutoff in CUTOFFS
    }
    return PerImage([str(row) for row in range(HELD_OUT)], [], [], figures)


def test_reference_from_the_teachers_features_finds_images_and_the_difference_is_to_it(
    labelled: DihtRun, tmp_path: Path
) -> None:
    found = reference_of(labelled).compare(heldout_images(tmp_path), [0], model_hits(0.75))
    (reference,) = found["references"]
    assert (reference["name"], reference["pairs"], found["notes"]) == ("tokens", 72, [])
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 72}
    assert reference["text_to_image"]["recall"]["5"] > 2 * reference["text_to_image"]["chance"]["5"]
    for direction in ("text_to_image", "image_to_text"):
        assert reference["difference"][direction]["value"] == pytest.approx(0.75 - reference[direction]["recall"]["5"])


def test_run_with_word_vectors_has_the_kernel_regression_on_them_as_a_second_reference(
    labelled: DihtRun, tmp_path: Path
) -> None:
    table = tmp_path / "words.txt"
    table.write_text("red 1 0 0\ngreen 0 1 0\nblue 0 0 1\n")
    train = labelled.spec.train
    assert train is not None
    with_words = train.model_copy(update={"words": str(table)})
    run = labelled.model_copy(update={"spec": labelled.spec.model_copy(update={"train": with_words})})
    alone, both = (
        reference_of(each).compare(heldout_images(tmp_path), [0], model_hits(0.75))["references"]
        for each in (labelled, run)
    )
    assert both[0] == alone[0]
    (_, kernel) = both
    assert (kernel["name"], kernel["pairs"], kernel["words"]) == ("words", 72, 3)
    for direction in ("text_to_image", "image_to_text"):
        assert kernel[direction]["recall"]["5"] > 2 * kernel[direction]["chance"]["5"]
        assert kernel["difference"][direction]["value"] == pytest.approx(0.75 - kernel[direction]["recall"]["5"])


@pytest.mark.parametrize(("models", "fitted"), [(3, 3), (TEACHER.dimension + 1, TEACHER.dimension)])
def test_reference_has_the_models_dimension_up_to_the_teachers_and_is_fitted_once(
    labelled: DihtRun, tmp_path: Path, models: int, fitted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def recorded(tokens: Any, features: Any, vocabulary: int, dimension: int, **more: Any) -> TokenRidge | None:
        asked.append(dimension)
        return fit_ridge(tokens, features, vocabulary, dimension, **more)

    monkeypatch.setattr(ridge_reference, "fit_ridge", recorded)
    reference, images = reference_of(labelled), heldout_images(tmp_path, models)
    found = [reference.compare(images, [0], model_hits(1))["references"] for _ in range(2)]
    assert [each["dimension"] for each in (*found[0], *found[1])] == [fitted, fitted]
    assert (asked, found[0]) == ([fitted], found[1])


def test_reference_without_the_teachers_features_or_words_says_what_is_missing(
    labelled: DihtRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge_reference, "_has_words", lambda caption: False)
    found = reference_of(labelled).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert (found["references"], found["notes"]) == ([], ["no reference: no training caption has a word"])
    Path(located(labelled.spec.data.output).features("drawn-0")).unlink()
    found = reference_of(labelled).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert "the teacher's features no longer lie beside the labels" in found["notes"][0]
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 72}


def test_pairs_without_image_or_caption_do_not_count(alone: DihtRun, tmp_path: Path) -> None:
    good = pairs(60, 1000)
    bad = [("x0", {"png": b"junk", "txt": b"a"}), ("x1", {"png": draw("red", "disc", 1)}), ("x2", {"txt": b"alone"})]
    write_samples(Storage(), f"{tmp_path}/raw/0.tar", [*good[:30], *bad, *good[30:]])
    found = reference_of(alone).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 61}


def test_pairs_when_the_training_names_its_own_shards_are_theirs(tmp_path: Path) -> None:
    make_data(tmp_path)
    write_samples(Storage(), f"{tmp_path}/own/0.tar", pairs(70, 5000))
    own = {"modelConfig": CONFIG, "samples": 100, "batchSize": 10, "shards": [f"{tmp_path}/own/*.tar"]}
    run = document(tmp_path, label=None, filter=None, train={**own, "distillation": {"mode": "Disabled"}})
    found = reference_of(run).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert found["seen"] == {"pictures": 0, "of": 24, "pairs": 70}


@pytest.mark.parametrize("shards", [1, 3])
def test_pairs_when_they_are_many_are_the_first(
    alone: DihtRun, tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge_reference, "MAX_PAIRS", 55)
    said: list[tuple[str, int]] = []
    for number in range(shards):
        part = pairs(90, 1000)[90 * number // shards : 90 * (number + 1) // shards]
        write_samples(Storage(), f"{tmp_path}/raw/{number}.tar", part)
    if shards > 1:  # what is not needed is not read
        (tmp_path / "raw/2.tar").write_bytes(b"no archive")
    found = reference_of(alone, said)
    assert found.compare(heldout_images(tmp_path), [0], model_hits(1))["seen"]["pairs"] == 55
    assert said[0][0] == "reference: training pairs"


@pytest.mark.parametrize(
    ("limit", "training", "note"),
    [
        (24, 90, "no reference: the run has no committed label stage"),
        (23, 90, "no reference: more than 23 images"),
        (24, 50, "no reference: the run has no committed label stage"),
        (24, 49, "no reference: only 49 training pairs, 50 needed"),
    ],
)
def test_references_when_there_are_too_many_images_or_too_few_pairs_are_left_out(
    alone: DihtRun, tmp_path: Path, limit: int, training: int, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge_reference, "MAX_GALLERY", limit)
    write_samples(Storage(), f"{tmp_path}/raw/0.tar", pairs(training, 1000))
    found = reference_of(alone).compare(heldout_images(tmp_path), [0], model_hits(1))
    assert (found["references"], found["notes"]) == ([], [note])
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
    found = reference_of(run)
    result = found.compare(heldout_images(tmp_path), [0], model_hits(1))
    assert (result["references"], result["seen"]) == ([], None)
    assert reason in result["notes"][0]
    assert found.seen(heldout_images(tmp_path).items) is None


def features_of(run: DihtRun, images: EncodedImages) -> np.ndarray:
    found = reference_of(run)
    vars(found)["_teacher"] = TEACHER
    return found._features(images)


def test_images_of_two_shards_with_the_same_uids_are_each_its_own(alone: DihtRun, tmp_path: Path) -> None:
    items, expected = list[BenchmarkImage](), list[np.ndarray]()
    for number in range(2):
        uri = f"{tmp_path}/two/{number}.tar"
        images = [members["png"] for _, members in pairs(6, 100 * number)]
        write_samples(
            Storage(),
            uri,
            [(f"{row}", {"png": image, "json": f'{{"uid": "{row:03}"}}'.encode()}) for row, image in enumerate(images)],
        )
        items += [BenchmarkImage(uri, f"{row}", f"{row:03}", ("a",), None) for row in range(6)]
        expected += [small_pixels(decode(image)) for image in images]
    captioned = EncodedImages(items, np.zeros((12, 1), dtype=np.float32))
    assert features_of(alone, captioned) == pytest.approx(np.stack(expected), abs=1e-3)


def test_images_when_the_reference_decoder_reads_them_look_as_it_shows_them(tmp_path: Path) -> None:
    make_data(tmp_path)
    evaluate = {"model": "ViT-B-32", "decode": "Reference"}
    run = document(tmp_path, evaluate, filter=None, label=None, train=None)
    drawn, uri = [Image.new("RGBA", (side, side), (255, 0, 0, 0)) for side in (4, 32)], f"{tmp_path}/odd/0.tar"
    write_samples(Storage(), uri, [(f"{row}", {"png": png(image), "txt": b"a"}) for row, image in enumerate(drawn)])
    items = [BenchmarkImage(uri, each.key, each.uid, ("a",), None) for each in read_samples(Storage(), uri)]
    found = features_of(run, EncodedImages(items, np.zeros((2, 1), dtype=np.float32)))
    assert found.tolist() == [small_pixels(Image.new("RGB", (32, 32), "red")).tolist()] * 2
