"""The step `measure`: encoded images and the benchmark's texts in, figures out. It reads and writes no file."""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.api.evaluate import Benchmark, FewShot
from diht_k8s.recipe.clip_models.loading import LoadedModel
from diht_k8s.recipe.evaluate import answer_ranking, classification, group_tasks, retrieval
from diht_k8s.recipe.evaluate.class_texts import BenchmarkTexts
from diht_k8s.recipe.evaluate.encoding import EncodedImages
from diht_k8s.recipe.evaluate.results import Measured


def measure(
    benchmark: Benchmark,
    texts: BenchmarkTexts,
    images: EncodedImages,
    loaded: LoadedModel,
    few_shot: FewShot | None,
    seed: Sequence[int],
) -> Measured:
    """The figures of one benchmark.

    Args:
        benchmark: its type selects the task.
        texts: class names and templates.
        images: all of its images that can be used.
        loaded: the model, which encodes the texts.
        few_shot: the probe of a Classification benchmark.
        seed: of all draws.

    Raises:
        DataError: the images lack what the task needs.
    """
    names, templates = texts.class_names.lines, texts.templates.lines
    match benchmark.type:
        case "Classification":
            return classification.classify(images, names, templates, loaded, few_shot, seed)
        case "Retrieval":
            return retrieval.retrieve(images, templates, loaded, seed)
        case "AnswerRanking":
            return answer_ranking.rank_answers(images, names, templates, loaded, seed)
        case "PairMatching":
            return group_tasks.match_pairs(images, templates, loaded, seed)
        case "CaptionChoice":
            return group_tasks.choose_captions(images, templates, loaded, seed)
        case "Association":
            return group_tasks.associate(images, templates, loaded, seed)
