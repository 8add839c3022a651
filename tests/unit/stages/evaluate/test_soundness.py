"""No broken model gets a figure unmarked: whatever its features are, the benchmark stops or carries a note."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.api.evaluate import Benchmark, FewShot
from diht_k8s.models.features import FULL, TEXTS
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.evaluate import measure
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage, Cue, VisualQuestion
from diht_k8s.stages.evaluate.class_texts import BenchmarkTexts, SourcedTexts
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured
from diht_k8s.stages.evaluate.soundness import FeatureGate, figure_notes, require_finite_figures

IMAGES, WIDTH, CLASSES = 24, 16, 4
TASKS = ("Classification", "MultiLabel", "Retrieval", "AnswerRanking", "PairMatching", "CaptionChoice", "Association")

Features = NDArray[np.float32]
Spoil = Callable[[Features], Features]


def item(row: int, task: str) -> BenchmarkImage:
    """An image with all that a task asks for."""
    captions = (f"image {row}", f"no image {row}") if task == "CaptionChoice" else (f"image {row}",)
    question = VisualQuestion("which?", (f"answer {row % CLASSES}",), ("answer 0", "answer 1", "answer 2", "answer 3"))
    cues = (Cue(str(row // 4), f"cue {row // 4}", row % 4 < 2, 4),)
    classes = (row % CLASSES, row * 5 % CLASSES)
    return BenchmarkImage(
        "0.tar", str(row), f"u{row}", captions, row % CLASSES, (question,), str(row // 2), f"{row}", cues, "", classes
    )


def units(rows: int, seed: int) -> Features:
    drawn = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def measured(
    task: str,
    monkeypatch: pytest.MonkeyPatch,
    images: Spoil = lambda features: features,
    texts: Spoil = lambda features: features,
    logit_scale: float = 20.0,
    full: int = 0,
    name: str = "class {}",
    names: Sequence[str] = (),
    changed: int = IMAGES,
    few_shot: FewShot | None = None,
    **parts: Any,
) -> Measured:
    """The figures of a model whose features are spoilt, on images of which the first have these parts."""
    known: dict[str, int] = {}

    def encode(loaded: object, asked: Sequence[str], lengths: Counter[str]) -> Features:
        lengths.update({FULL: full, TEXTS: len(asked)})
        distinct = list(dict.fromkeys(asked))
        for text in distinct:
            known.setdefault(text, len(known))
        spoilt = texts(units(200, 1)[[known[text] for text in distinct]])
        return spoilt[[distinct.index(text) for text in asked]]

    monkeypatch.setattr(measure, "encode_texts", encode)
    lines = SourcedTexts(list(names) or [name.format(number) for number in range(CLASSES)], "test")
    template = "{question} {answer}" if task == "AnswerRanking" else "{}"
    benchmark = Benchmark(name="bench", type=cast("Any", task), shards=["0.tar"])
    encoded = EncodedImages(
        [replace(item(row, task), **(parts if row < changed else {})) for row in range(IMAGES)],
        images(units(IMAGES, 0)),
    )
    loaded = cast("Any", SimpleNamespace(name="broken", logit_scale=logit_scale))
    both = BenchmarkTexts(lines, SourcedTexts([template], "test"))
    return measure.measure(benchmark, both, encoded, loaded, few_shot, [0])


def filled(value: float) -> Spoil:
    return lambda features: np.full_like(features, value)


def in_one(value: float) -> Spoil:
    """One number of one row, as an overflow leaves it."""

    def spoil(features: Features) -> Features:
        features = features.copy()
        features[-1, 3] = value
        return features

    return spoil


def half_precision_overflow(features: Features) -> Features:
    """Activations beyond 65,504 are infinite, and infinite by infinite is NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        large = (features * 1e6).astype(np.float16)
        return (large / np.linalg.norm(large, axis=1, keepdims=True)).astype(np.float32)


def constant(features: Features) -> Features:
    return np.repeat(units(1, 2), len(features), axis=0)


def first_row_of_zeros(features: Features) -> Features:
    return np.where(np.arange(len(features))[:, None] == 0, np.float32(0), features)


STOPS: dict[str, Spoil] = {
    "NaN": filled(np.nan),
    "infinite": filled(np.inf),
    "one NaN": in_one(np.nan),
    "overflow of fp16": half_precision_overflow,
}
NOTED: dict[str, tuple[Spoil, str]] = {
    "zeros": (filled(0.0), "features of zeros"),
    "one zero": (first_row_of_zeros, "have features of zeros, the first is"),
    "constant": (constant, "the same features"),
}


def test_figures_of_a_sound_model_carry_no_note_on_features(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all("features" not in note for task in TASKS for note in measured(task, monkeypatch).figures["notes"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("side", ["images", "texts"])
@pytest.mark.parametrize("name", STOPS)
def test_features_that_are_not_finite_end_every_task_and_name_model_benchmark_and_the_first(
    name: str, side: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = rf"evaluate.benchmarks bench: .* {side} by the model broken are NaN or infinite, the first of '.+'"
    sides: dict[str, Any] = {side: STOPS[name]}
    with pytest.raises(DataError, match=said):
        measured(task, monkeypatch, **sides)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("side", ["images", "texts"])
@pytest.mark.parametrize("name", NOTED)
def test_features_that_say_nothing_carry_a_note_in_every_task(
    name: str, side: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, said = NOTED[name]
    sides: dict[str, Any] = {side: spoil, "few_shot": FewShot(shots=[1], seeds=1) if task == TASKS[0] else None}
    found = measured(task, monkeypatch, **sides).figures["notes"]
    assert any(said in note and side in note for note in found), found


@pytest.mark.parametrize("task", TASKS)
def test_towers_of_two_sizes_end_every_task(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="bench: the model broken gives texts 12 features, and the other side 16"):
        measured(task, monkeypatch, texts=lambda features: features[:, :12])


@pytest.mark.parametrize("logit_scale", [np.nan, np.inf])
def test_logit_scale_that_is_not_finite_ends_the_benchmark(logit_scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="bench: the logit scale of the model broken is"):
        measured("Classification", monkeypatch, logit_scale=logit_scale)


@pytest.mark.parametrize(
    ("name", "task", "noted"),
    [
        ("{}", "Classification", True),
        ("class {}", "Classification", False),
        ("{}", "AnswerRanking", False),
    ],
)
def test_class_names_that_are_numbers_carry_a_note(
    name: str, task: str, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [note for note in measured(task, monkeypatch, name=name).figures["notes"] if "are numbers" in note]
    assert [note.partition(", for")[0] for note in said] == [f"{CLASSES} of {CLASSES} class names are numbers"] * noted


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("full", [0, 3])
def test_prompts_that_may_be_cut_off_carry_a_note(task: str, full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = measured(task, monkeypatch, full=full).figures["notes"]
    assert any(note.startswith("3 of ") and "ends may be cut off" in note for note in notes) is bool(full)


@pytest.mark.parametrize("task", TASKS)
def test_captions_that_were_left_out_are_told_where_they_are_asked(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unusable = {"caption_not_utf8": 2, "caption_no_text": 1}
    figures = measured(task, monkeypatch, changed=6, unusable_captions=unusable).figures
    told = "18 captions do not count (caption_no_text 6, caption_not_utf8 12)"
    asked = task in ("Retrieval", "PairMatching", "CaptionChoice")
    assert (told in figures["notes"], "unusable_captions" in figures) == (asked, asked)


@pytest.mark.parametrize(
    ("task", "names", "said"),
    [
        ("Classification", ["crane", "dog", "crane", "cat"], "is named): 'crane' (0, 2): name them"),
        ("MultiLabel", ["crane", "dog", "crane", "dog"], "is named): 'crane' (0, 2), 'dog' (1, 3): name them"),
        ("Classification", [str(number // 2) + " eggs" for number in range(12)], "'4 eggs' (8, 9) and 1 more: name"),
        ("Classification", ["crane", "dog", "cranes", "cat"], None),
        ("AnswerRanking", ["crane", "dog", "crane", "cat"], None),
    ],
)
def test_classes_of_one_name_carry_a_note(
    task: str, names: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = measured(task, monkeypatch, names=names).figures["notes"]
    assert [said is not None and said in note for note in notes if "told apart" in note] == [True] * (said is not None)


def test_model_that_names_one_class_carries_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    towards = units(200, 1)[2]

    def near_one_text(features: Features) -> Features:
        return towards + 1e-3 * features

    found = measured("Classification", monkeypatch, images=near_one_text).figures
    assert (found["named_classes"], found["top1"]) == (1, 0.25)
    assert "the model names the same class for every image" in found["notes"]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"top1": 1.0, "top5": None, "balanced": 0.5}, "exactly 100\N{NO-BREAK SPACE}% in top-1:"),
        ({"accuracy": 0.0}, "exactly 0\N{NO-BREAK SPACE}% in accuracy:"),
        ({"scores": [{"name": "text score", "value": 1.0}]}, "100\N{NO-BREAK SPACE}% in text score:"),
        (
            {"text_to_image": {"recall": {"1": 0.0, "5": 0.2, "10": 1.0}, "chance": {"1": 0.1, "5": 0.5, "10": 1.0}}},
            "exactly 0\N{NO-BREAK SPACE}% in caption to image R@1:",
        ),
        ({"few_shot": {"points": [{"shots": 4, "probe": {"mean": 1.0}}]}}, "few-shot probe of 4 shots"),
    ],
)
def test_figure_of_exactly_0_or_100_percent_carries_a_note(figures: dict[str, Any], said: str) -> None:
    (note,) = figure_notes(figures)
    assert said in note
    between = {"top1": 0.999, "top5": None, "balanced": 0.001, "named_classes": 1}
    assert figure_notes({**between, "class_pictures": [0, 5]}) == []
    assert figure_notes({**between, "class_pictures": [1, 5]}) == ["the model names the same class for every image"]


@pytest.mark.parametrize(
    ("result", "hits", "said"),
    [
        ({"text_to_image": {"recall": {"1": np.nan}}}, 1.0, r"bench: its figure text_to_image.recall.1 is nan"),
        ({"few_shot": {"draws": [{"residual": np.inf}]}}, 1.0, r"its figure few_shot.draws\[0\].residual is inf"),
        ({"top1": 0.5}, np.nan, "bench: top-1 of u1 is not finite"),
    ],
)
def test_figure_that_is_not_finite_is_refused_before_it_is_written(
    result: dict[str, Any], hits: float, said: str
) -> None:
    parts = {"top-1": (np.array([0.0, hits]), np.ones(2))}
    images = (["u0", "u1"], ["a"] * 2, [""] * 2)
    with pytest.raises(DataError, match=said):
        require_finite_figures(result, PerImage(*images, parts), "bench")
    with pytest.raises(DataError, match=said):
        require_finite_figures(result, PerImage(*images, rankings=parts), "bench")


def test_equal_scores_for_all_images_have_the_share_of_images_with_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("MultiLabel", monkeypatch, images=constant).figures
    images = [set(item(row, "MultiLabel").classes or ()) for row in range(IMAGES)]
    shares = [sum(number in each for each in images) / IMAGES for number in range(CLASSES)]
    assert [score["value"] for score in found["scores"]] == pytest.approx([np.mean(shares)] * 2)
    assert [each["precision"] for each in found["class_precisions"]] == pytest.approx(shares)


@pytest.mark.parametrize(
    ("batches", "same"),
    [
        ([("ab", [[1, 0], [1, 0]]), ("a", [[1, 0]])], True),
        ([("ab", [[1, 0], [1, 0]]), ("cd", [[0, 1], [0, 1]])], False),
        ([("ab", [[1, 0], [0, 1]]), ("cd", [[1, 0], [1, 0]])], False),
        ([("ab", [[0.6, 0.8], [-0.6, 0.8]])], False),
        ([("aa", [[1, 0], [1, 0]])], False),
    ],
    ids=["the last batch is a repeat", "each batch alone", "the last batch alone", "one feature", "the same text"],
)
def test_features_are_the_same_for_all_only_where_all_batches_and_features_are(
    batches: list[tuple[str, list[list[float]]]], same: bool
) -> None:
    gate = FeatureGate("stub", "texts")
    for names, features in batches:
        gate.admit(np.array(features, dtype=np.float32), list(names))
    assert any("all texts have the same features" in note for note in gate.notes()) is same


@pytest.mark.parametrize(
    ("number", "odd", "said"),
    [
        (200, [0, 150], "198 of 200 images have the same features"),
        (200, [0, 1, 150], ""),
        (200, [], "all images have the same features"),
        (50, [7], ""),
    ],
    ids=["99 percent, the first is not", "fewer", "all", "one of few"],
)
def test_features_that_are_the_same_for_99_percent_are_counted(number: int, odd: list[int], said: str) -> None:
    gate, rows = FeatureGate("stub", "images"), np.repeat(units(1, 2), number, axis=0)
    rows[odd] = units(len(odd), 3) if odd else rows[odd]
    rounding = np.random.default_rng(0).uniform(-4e-7, 4e-7, rows.shape).astype(np.float32)
    for start in range(0, number, 40):
        names = [f"u{row}" for row in range(start, min(start + 40, number))]
        gate.admit((rows + rounding)[start : start + 40], names)
    assert [note.partition(", so")[0] for note in gate.notes()] == [said] * bool(said)


def test_features_of_zeros_are_counted_over_all_batches_and_negative_ones_are_none() -> None:
    gate = FeatureGate("stub", "images")
    for names, features in (("ab", [[0, 0], [1, 0]]), ("cd", [[-1, -1], [0, 0]])):
        gate.admit(np.array(features, dtype=np.float32), list(names))
    assert gate.notes() == ["2 of 4 images have features of zeros, the first is 'a'"]
