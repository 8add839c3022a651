"""The step `measure`: encoded images and the benchmark's texts in, figures out. It reads and writes no file.

Features enter here, fresh and stored ones alike, and pass the gate of `soundness` before any figure is made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from diht_k8s.api.errors import DataError
from diht_k8s.api.evaluate import Benchmark, FewShot
from diht_k8s.models.features import FULL, TEXTS, encode_texts
from diht_k8s.models.loading import LoadedModel
from diht_k8s.stages.evaluate import answer_ranking, classification, group_tasks, retrieval
from diht_k8s.stages.evaluate.class_texts import WITH_CLASSES, BenchmarkTexts, name_notes
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured
from diht_k8s.stages.evaluate.soundness import FeatureGate, TextEncoder, figure_notes

WITH_CAPTIONS: Final = ("Retrieval", "PairMatching", "CaptionChoice")
"""Types that ask the captions of the images."""


def measure(
    benchmark: Benchmark,
    texts: BenchmarkTexts,
    images: EncodedImages,
    loaded: LoadedModel,
    few_shot: FewShot | None,
    seed: Sequence[int],
) -> Measured:
    """The figures of one benchmark, with notes on features and figures that look like a fault.

    Args:
        benchmark: its type selects the task.
        texts: class names and templates.
        images: all of its images that can be used.
        loaded: the model, which encodes the texts.
        few_shot: the probe of a Classification benchmark.
        seed: of all draws.

    Raises:
        DataError: the images lack what the task needs, or features are not finite; it names the benchmark.
    """
    try:
        gate = FeatureGate(loaded.name, "images")
        gate.admit(images.features_ND, [item.uid for item in images.items])
        lengths = Counter[str]()
        encode = TextEncoder(
            partial(encode_texts, loaded, lengths=lengths), loaded.name, loaded.logit_scale, images.features_ND.shape[1]
        )
        measured = _task(benchmark, texts, images, encode, few_shot, seed)
    except DataError as error:
        raise DataError(f"evaluate.benchmarks {benchmark.name}: {error}") from error
    named = name_notes(texts.class_names.lines) if benchmark.type in WITH_CLASSES else []
    of_task = measured.figures.get("notes", [])
    notes = [*gate.notes(), *encode.notes(), *figure_notes(measured.figures), *of_task, *named]
    if lengths[FULL]:
        notes.append(
            f"{lengths[FULL]:,} of {lengths[TEXTS]:,} prompts fill all places that the model reads, so their ends "
            f"may be cut off"
        )
    figures = {**measured.figures, "notes": notes}
    if benchmark.type in WITH_CAPTIONS:
        figures["unusable_captions"] = unusable = _unusable_captions(images)
        if unusable:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in unusable.items())
            notes.append(f"{sum(unusable.values()):,} captions do not count ({reasons})")
    return replace(measured, figures=figures)


def _unusable_captions(images: EncodedImages) -> dict[str, int]:
    """The captions that were left out, by reason."""
    found = Counter[str]()
    for item in images.items:
        found.update(item.unusable_captions)
    return dict(sorted(found.items()))


def _task(
    benchmark: Benchmark,
    texts: BenchmarkTexts,
    images: EncodedImages,
    encode: TextEncoder,
    few_shot: FewShot | None,
    seed: Sequence[int],
) -> Measured:
    names, templates = texts.class_names.lines, texts.templates.lines
    match benchmark.type:
        case "Classification":
            return classification.classify(images, names, templates, encode, few_shot, seed)
        case "MultiLabel":
            return classification.rank_images(images, names, templates, encode, seed)
        case "Retrieval":
            return retrieval.retrieve(images, templates, encode, seed)
        case "AnswerRanking":
            return answer_ranking.rank_answers(images, names, templates, encode, seed)
        case "PairMatching":
            return group_tasks.match_pairs(images, templates, encode, seed)
        case "CaptionChoice":
            return group_tasks.choose_captions(images, templates, encode, seed)
        case "Association":
            return group_tasks.associate(images, templates, encode, seed)
