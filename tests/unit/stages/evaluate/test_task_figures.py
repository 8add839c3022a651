"""The parts of a benchmark's result put together."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diht_k8s.api.evaluate import FewShot
from diht_k8s.stages.evaluate import classification, retrieval
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.few_shot import FewShotCurve, FewShotDraw, curve_json
from diht_k8s.stages.evaluate.results import QUERIES, Measured, drawn_by_digest
from diht_k8s.stages.evaluate.soundness import TextEncoder
from tests.unit.stages.evaluate.stubs import image


def texts_of(features: np.ndarray) -> TextEncoder:
    """A model that knows these texts."""
    return TextEncoder(lambda texts: features.astype(np.float32), "stub", 50.0, features.shape[1])


def classified(labels: list[int], named: list[int], classes: int) -> Measured:
    """The result of images that look like one class and are of another."""
    eye = np.eye(classes, dtype=np.float32)
    items = [image(row, label=label) for row, label in enumerate(labels)]
    names = [f"class {number}" for number in range(classes)]
    return classification.classify(EncodedImages(items, eye[named]), names, ["{}"], texts_of(eye), None, [0])


def test_mistakes_are_the_commonest_pairs_of_classes_without_the_right_ones() -> None:
    found = classified([0, 0, 0, 1, 1, 2], [1, 1, 0, 0, 1, 2], 3)
    assert found.figures["confused"] == [
        {"true": "class 0", "named": "class 1", "pictures": 2},
        {"true": "class 1", "named": "class 0", "pictures": 1},
    ]


def test_hits_when_classes_are_more_than_five_are_kept_of_each_image() -> None:
    found = classified([0, 1, 6], [0, 0, 0], 7)
    hits = {name: hits_N.tolist() for name, (hits_N, _) in found.per_image.figures.items()}
    assert hits["top-1"] == [1, 0, 0]
    assert hits["top-5"] == [1, 1, 0]
    assert found.figures["without_class"] == 0


def test_figures_of_each_image_sum_up_to_those_of_the_benchmark() -> None:
    found = classified([0, 0, 0, 3], [0, 1, 1, 3], 7)
    hits, weights = (part.sum() for part in found.per_image.figures["mean per class"])
    assert (hits / weights, weights) == (pytest.approx(found.figures["balanced"]), pytest.approx(4))
    assert found.figures["queries"]["chance"] == pytest.approx(1 / 2)  # of the classes that have an image
    angles = np.radians([0, 40, 88, 180, 181, 270, 300, 137])
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ranked = retrieved(images, images[[0, 1, 2, 4, 5, 3, 6, 7]])
    for name, key in (("caption to image", "text_to_image"), ("image to caption", "image_to_text")):
        for cutoff, recall in ranked.figures[key]["recall"].items():
            hits, weights = (part.sum() for part in ranked.per_image.figures[f"{name}, R@{cutoff}"])
            assert hits / weights == pytest.approx(recall)
        assert ranked.figures[key]["recall"]["1"] < ranked.figures[key]["recall"]["5"]


def retrieved(images: np.ndarray, texts: np.ndarray) -> Measured:
    items = [image(row, captions=(f"text {row}",)) for row in range(len(images))]
    items.append(image(len(images)))
    features = np.concatenate([images, images[:1]]).astype(np.float32)
    return retrieval.retrieve(EncodedImages(items, features), ["{}"], texts_of(texts), [0])


def test_examples_are_the_hits_by_margin_and_the_misses_by_rank() -> None:
    angles = np.radians([0, 40, 88, 180, 181, 270, 300, 137])
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = retrieved(images, images[[0, 1, 2, 4, 5, 3, 6, 7]])  # captions 3, 4 and 5 are those of one another
    assert (found.figures["pictures"], found.figures["captions"], found.figures["without_caption"]) == (8, 8, 1)
    shown = found.figures["examples"]["text_to_image"]
    assert [each["picture"] for each in shown["best"]] == ["u2", "u7", "u0", "u1"]
    assert [(each["picture"], each["rank"]) for each in shown["worst"]] == [("u5", 4.0), ("u4", 3.0), ("u3", 2.0)]
    second = shown["worst"][1]
    assert second["query"] == "text 4"
    assert [(item["item"], item["right"]) for item in second["top"][:3]] == [("u5", False), ("u6", False), ("u4", True)]


def test_examples_when_there_are_two_images_go_by_margin() -> None:
    images = np.array([[1.0, 0.0], [0.8, 0.6]])
    texts = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = retrieved(images, texts)
    assert [each["picture"] for each in found.figures["examples"]["text_to_image"]["best"]] == ["u1", "u0"]


def test_points_of_the_probe_are_mean_and_spread_over_the_draws() -> None:
    def draw(shots: int, seed: int, probe: float) -> FewShotDraw:
        return FewShotDraw(shots, seed, probe, 0.1, 0.2, 0.3, 1.0, 0.1, 0.01, 0.01, True, 1e-9)

    curve = FewShotCurve([draw(1, 0, 0.4), draw(1, 1, 0.6), draw(4, 0, 0.5)], {9: "few"}, 7)
    found = curve_json(curve)
    first, second = found["points"]
    assert first["probe"] == pytest.approx({"mean": 0.5, "low": 0.4, "high": 0.6, "deviation": 0.02**0.5})
    assert second["probe"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "deviation": 0.0}
    assert (first["shots"], first["draws"], second["draws"], found["test_pictures"]) == (1, 2, 1, 7)
    assert found["skipped"] == [{"shots": 9, "why": "few"}]


def test_probe_when_it_starts_from_zero_shot_has_the_models_logit_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def curve(features_ND: np.ndarray, labels_N: np.ndarray, zero_shot_CD: np.ndarray, *rest: object) -> FewShotCurve:
        seen["zero_shot"] = zero_shot_CD
        return FewShotCurve([], {}, 0)

    monkeypatch.setattr(classification, "few_shot_curve", curve)
    items = [image(row, label=row % 2) for row in range(4)]
    images = EncodedImages(items, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]])
    result = classification.classify(images, ["a", "b"], ["{}"], texts_of(np.eye(2)), FewShot(shots=[1], seeds=1), [0])
    assert result.figures["top1"] == 1.0
    assert seen["zero_shot"].tolist() == [[50.0, 0.0], [0.0, 50.0]]


def test_probe_when_images_stand_twice_tests_on_no_copy_of_a_shot() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 64)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = [*range(100), *range(100)]
    items = [image(place, label=row % 5, digest=f"{row}") for place, row in enumerate(rows)]
    encode, few_shot = texts_of(rng.normal(size=(5, 64))), FewShot(shots=[8], seeds=3)
    once, twice = (
        classification.classify(
            EncodedImages(items[:number], features[rows[:number]]), list("abcde"), ["{}"], encode, few_shot, [0]
        ).figures
        for number in (100, 200)
    )
    assert once["few_shot"] == twice["few_shot"]
    assert twice["few_shot"]["test_pictures"] == 100 - 5 * 16
    assert (once["pictures"], twice["pictures"]) == (100, 200)


def test_retrieval_when_an_image_stands_once_for_each_caption_is_that_of_one_image_with_all() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    texts = np.repeat(features, 5, axis=0) + 0.4 * rng.normal(size=(100, 8))
    together = [image(row, captions=tuple(f"{row} {n}" for n in range(5)), digest=f"{row}") for row in range(20)]
    alone = [
        replace(item, uid=item.uid if n == 0 else f"{item.uid}-{n}", captions=(caption,))
        for item in together
        for n, caption in enumerate(item.captions)
    ]
    silent = replace(together[3], uid="silent", captions=())  # a copy without a caption is none of the gallery's
    one, other = (
        retrieval.retrieve(
            EncodedImages([silent, *items], features[[int(item.digest) for item in (silent, *items)]]),
            ["{}"],
            texts_of(texts / np.linalg.norm(texts, axis=1, keepdims=True)),
            [0],
        )
        for items in (together, alone)
    )
    assert one.figures | {"copies": 80} == other.figures
    assert (one.figures["copies"], one.figures["pictures"], one.figures["without_caption"]) == (0, 20, 1)
    assert one.figures["image_to_text"]["recall"]["1"] > one.figures["text_to_image"]["recall"]["1"] > 0.5
    assert one.per_image.uids == other.per_image.uids


UIDS = [f"image {number}" for number in range(50)]
CAPTIONS = [f"caption {number}" for number in range(50)]


def test_queries_are_those_of_the_smallest_digests_in_any_order() -> None:
    smallest = sorted(UIDS, key=lambda uid: hashlib.sha256(uid.encode()).digest())[:QUERIES]
    rows = list(range(50))
    random.Random(0).shuffle(rows)
    for order in (range(50), rows):
        uids = [UIDS[row] for row in order]
        drawn = drawn_by_digest(uids, [CAPTIONS[row] for row in order])
        assert [uids[row] for row in drawn] == smallest


def test_query_of_an_image_is_its_first_caption_and_no_caption_comes_twice() -> None:
    uids = [uid for uid in UIDS for _ in range(2)]
    drawn = drawn_by_digest(uids, [f"{caption}{end}" for caption in CAPTIONS for end in (", first", ", second")])
    assert len(drawn) == QUERIES
    assert all(row % 2 == 0 for row in drawn)
    assert len(drawn_by_digest(UIDS, ["one flag"] * 49 + ["another"])) == 2
    assert drawn_by_digest([], []) == []
