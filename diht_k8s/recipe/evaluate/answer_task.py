"""One AnswerRanking benchmark on one model: from encoded images with questions to its part of `report.json`.

Texts are encoded in blocks of questions, so memory is bounded for any number of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.clip_models.features import encode_texts
from diht_k8s.recipe.clip_models.loading import LoadedModel
from diht_k8s.recipe.evaluate.answer_ranking import VisualQuestion, answer_ranking, texts_of
from diht_k8s.recipe.evaluate.benchmark_images import EncodedImages
from diht_k8s.recipe.evaluate.classification import class_embeddings
from diht_k8s.recipe.report.per_image import PER_IMAGE, PerImage

BLOCK_TEXTS: Final = 1 << 16
SHOWN: Final = 8

Json = dict[str, Any]


def rank_answers(
    images: EncodedImages, answers: Sequence[str], templates: Sequence[str], loaded: LoadedModel, seed: Sequence[int]
) -> Json:
    """Choose an answer to every question.

    Args:
        images: of the benchmark, encoded.
        answers: candidates of the questions that have none of their own.
        templates: with `{question}` and `{answer}`.
        loaded: the model.
        seed: of the bootstrap.

    Raises:
        DataError: no image has a question with an answer, or a question has fewer than two candidates.
    """
    asked = [(row, question) for row, item in enumerate(images.items) for question in item.questions]
    if not asked:
        raise DataError("no image has a question with an answer: add `question` and `answers` to the .json")
    candidates = [question.candidates or tuple(answers) for _, question in asked]
    few = next((row for row, options in enumerate(candidates) if len(options) < 2), None)
    if few is not None:
        question = asked[few][1].text[:60]
        raise DataError(
            f"question {question!r} has no two answers to choose from: add `candidates` to the .json, or classNames"
        )
    scores = _scores(images, asked, candidates, templates, loaded)
    rows_Q, questions = np.array([row for row, _ in asked]), [question for _, question in asked]
    figures = answer_ranking(questions, rows_Q, candidates, scores, np.random.default_rng(seed))
    wrong = np.flatnonzero(figures.worth_Q == 0)[:SHOWN]
    asked_about = [images.items[row] for row in np.unique(rows_Q)]
    per_image = PerImage(
        [item.uid for item in asked_about],
        [item.uri for item in asked_about],
        [item.questions[0].text for item in asked_about],
        {"accuracy": (figures.worth_G, figures.questions_G)},
    )
    return {
        PER_IMAGE: per_image,
        "pictures": len(np.unique(rows_Q)),
        "questions": len(questions),
        "without_question": sum(not item.questions for item in images.items),
        "templates": list(templates),
        "accuracy": figures.accuracy,
        "accuracy_interval": list(figures.interval),
        "chance": figures.chance,
        "majority": figures.majority,
        "mistakes": [
            {
                "picture": images.items[rows_Q[row]].uid,
                "question": questions[row].text,
                "named": figures.named[row],
                "answers": list(dict.fromkeys(questions[row].answers)),
            }
            for row in wrong
        ],
    }


def _scores(
    images: EncodedImages,
    asked: Sequence[tuple[int, VisualQuestion]],
    candidates: Sequence[Sequence[str]],
    templates: Sequence[str],
    loaded: LoadedModel,
) -> list[np.ndarray]:
    """[A] of each question."""
    scores: list[np.ndarray] = []
    block: list[tuple[int, int]] = []
    texts: list[str] = []

    def flush() -> None:
        if not block:
            return
        options_OD = class_embeddings(encode_texts(loaded, texts), len(texts) // len(templates))
        start = 0
        for row, number in block:
            scores.append(options_OD[start : start + number] @ images.features_ND[row])
            start += number
        block.clear()
        texts.clear()

    for (row, question), options in zip(asked, candidates, strict=True):
        texts += texts_of(question, options, templates)
        block.append((row, len(options)))
        if len(texts) >= BLOCK_TEXTS:
            flush()
    flush()
    return scores
