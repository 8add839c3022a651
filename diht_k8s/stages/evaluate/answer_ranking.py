"""Visual question answering as the ranking of candidate answers.

A CLIP model writes no text, so each candidate answer is put into the template with its question, and the image ranks
the texts. We do not know the paper's own recipe; this one is our choice. The score of an answer is VQAv2's: with ten
annotators, min(1, annotators who gave it / 3), averaged over leaving one annotator out; with fewer than four, 1 if any
gave it. SNLI-VE is the same with the hypothesis as the question and its three labels as candidates.

Shapes: Q questions, A candidate answers of one question, D features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.api.errors import DataError
from diht_k8s.stages.evaluate.benchmark_images import VisualQuestion
from diht_k8s.stages.evaluate.class_texts import ANSWER, QUESTION, ensemble_prompts
from diht_k8s.stages.evaluate.encoding import EncodedImages
from diht_k8s.stages.evaluate.results import Measured, asked_digest, per_image_of
from diht_k8s.stages.evaluate.scores import Interval, query_scores, rate_interval
from diht_k8s.stages.evaluate.soundness import TextEncoder

FULL_AGREEMENT: Final = 3
"""Annotators who must have given the same answer for a score of 1."""
BLOCK_TEXTS: Final = 1 << 16
"""Texts encoded at a time, of whole questions, so that memory is bounded for any number of candidates."""
SHOWN: Final = 8
"""Mistakes shown."""

Json = dict[str, Any]


@dataclass(frozen=True)
class AnswerRanking:
    """Figures of one benchmark."""

    accuracy: float
    """mean score of the chosen answers."""
    interval: Interval
    """95 %, over images, since questions about one image are correlated."""
    chance: float
    """mean score of a random candidate."""
    majority: float
    """mean score of always giving the most common answer (ties: the first in alphabetical order)."""
    named: list[str]
    score_Q: NDArray[np.float64]
    score_G: NDArray[np.float64]
    """sum over each image's questions, images in order."""
    questions_G: NDArray[np.float64]


def rank_answers(
    images: EncodedImages, answers: Sequence[str], templates: Sequence[str], encode: TextEncoder, seed: Sequence[int]
) -> Measured:
    """Choose an answer to every question.

    Args:
        images: of the benchmark, encoded.
        answers: candidates of the questions that have none of their own.
        templates: with `{question}` and `{answer}`.
        encode: the model's texts.
        seed: of the bootstrap.

    Raises:
        DataError: no image has a question with an answer, or a question has fewer than two candidates.
    """
    unusable = sum(item.unusable_questions for item in images.items)
    images, without = images.chosen(lambda item: bool(item.questions)), sum(not item.questions for item in images.items)
    asked = [(row, question) for row, item in enumerate(images.items) for question in item.questions]
    if not asked:
        told = (
            f" ({unusable:,} have none, or a value that is neither UTF-8 text nor a whole number)" if unusable else ""
        )
        raise DataError(f"no image has a question with an answer{told}: add `question` and `answers` to the .json")
    candidates = [question.candidates or tuple(answers) for _, question in asked]
    few = next((row for row, options in enumerate(candidates) if len(options) < 2), None)
    if few is not None:
        question = asked[few][1].text[:60]
        raise DataError(
            f"question {question!r} has no two answers to choose from: add `candidates` to the .json, or classNames"
        )
    scores = _scores(images, asked, candidates, templates, encode)
    rows_Q, questions = np.array([row for row, _ in asked]), [question for _, question in asked]
    first_N = images.first_rows()  # questions about copies of an image are resampled together
    figures = answer_ranking(questions, first_N[rows_Q], candidates, scores, np.random.default_rng(seed))
    wrong = np.flatnonzero(figures.score_Q == 0)[:SHOWN]
    asked_about = [images.items[row] for row in np.unique(first_N)]
    per_image = per_image_of(
        asked_about,
        [item.questions[0].text for item in asked_about],
        _asked(asked, first_N, answers),
        {"accuracy": (figures.score_G, figures.questions_G)},
    )
    result = {
        "pictures": len(asked_about),
        "copies": len(images.items) - len(asked_about),
        "questions": len(questions),
        "without_question": without,
        "unusable_questions": unusable,
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
        "notes": _notes(scores, unusable),
    }
    return Measured(result, per_image, asked_about, [mistake["picture"] for mistake in result["mistakes"]])


def _asked(
    asked: Sequence[tuple[int, VisualQuestion]], first_N: NDArray[np.int64], answers: Sequence[str]
) -> list[str]:
    """Digest of the questions about each image and its copies, images in order."""
    of_answers = asked_digest(answers)  # once: VQAv2 has 3,129
    questions_of: dict[int, list[Any]] = {}
    for row, question in asked:
        options = question.candidates or of_answers
        questions_of.setdefault(int(first_N[row]), []).append([question.text, question.answers, options])
    return [asked_digest(questions_of[row]) for row in sorted(questions_of)]


def _notes(scores: Sequence[NDArray[np.floating]], unusable: int) -> list[str]:
    """Notes on the questions that do not count, and on those that the model does not answer."""
    found: list[str] = []
    if unusable:
        found.append(
            f"{unusable:,} questions do not count: they have no answer, or one of their values is neither UTF-8 "
            f"text nor a "
            "whole number"
        )
    if alike := sum(bool((row_A == row_A[0]).all()) for row_A in scores):
        found.append(
            f"for {alike:,} of {len(scores):,} questions the model gives all candidates one score, a draw: their "
            f"texts may be "
            "cut off before the answer, or differ in case alone"
        )
    return found


def _scores(
    images: EncodedImages,
    asked: Sequence[tuple[int, VisualQuestion]],
    candidates: Sequence[Sequence[str]],
    templates: Sequence[str],
    encode: TextEncoder,
) -> list[np.ndarray]:
    """[A] of each question."""
    scores: list[np.ndarray] = []
    block: list[tuple[int, int]] = []
    texts: list[str] = []

    def flush() -> None:
        if not block:
            return
        options_OD = ensemble_prompts(encode(texts), len(texts) // len(templates))
        start = 0
        for row, number in block:
            scores.append(query_scores(options_OD[start : start + number], images.features_ND[row]))
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


@lru_cache(maxsize=1 << 16)  # every question has the same options
def normalised(answer: str) -> str:
    """An answer without case, surrounding white space and final full stops, for comparison."""
    return " ".join(answer.casefold().split()).rstrip(" .")


def answer_score(answer: str, answers: Sequence[str]) -> float:
    """Score of an answer in [0, 1], see the module's docstring."""
    return answer_scores([answer], answers)[0]


def answer_scores(options: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Score of each option; the answers are normalised once, since VQAv2 has 3,129 options for each question."""
    said = Counter(map(normalised, answers))
    return [_agreement(said[normalised(option)], len(answers)) for option in options]


def _agreement(said: int, people: int) -> float:
    if people <= FULL_AGREEMENT or not said:
        return float(said > 0)
    without_one = [min(1.0, said / FULL_AGREEMENT)] * (people - said)
    without_it = [min(1.0, (said - 1) / FULL_AGREEMENT)] * said
    return sum(without_one + without_it) / people


def texts_of(question: VisualQuestion, candidates: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every candidate in every template, templates of one candidate together."""
    return [
        template.replace(ANSWER, answer).replace(QUESTION, question.text)
        for answer in candidates
        for template in templates
    ]


def answer_ranking(
    questions: Sequence[VisualQuestion],
    images_Q: NDArray[np.int64],
    candidates: Sequence[Sequence[str]],
    scores: Sequence[NDArray[np.floating]],
    rng: np.random.Generator,
) -> AnswerRanking:
    """Figures from scores. Of equal scores the first is named, and a question counts as a draw among them would on
    average.

    Args:
        questions: Q questions.
        images_Q: index of each question's image.
        candidates: A candidate answers of each question.
        scores: [A] of each question, higher is better.
        rng: draws of the bootstrap.
    """
    named = [options[int(np.argmax(row_A))] for options, row_A in zip(candidates, scores, strict=True)]
    score_Q = np.array(
        [
            fmean(
                answer_scores(
                    [options[tied] for tied in np.flatnonzero(row_A == row_A.max()).tolist()], question.answers
                )
            )
            for options, row_A, question in zip(candidates, scores, questions, strict=True)
        ],
        dtype=np.float64,
    )
    said = Counter(normalised(answer) for question in questions for answer in question.answers)
    commonest = min(said, key=lambda answer: (-said[answer], answer))
    _, group_of_Q = np.unique(images_Q, return_inverse=True)
    counts_G = np.bincount(group_of_Q).astype(np.float64)
    hits_G = np.bincount(group_of_Q, weights=score_Q).astype(np.float64)
    guessed = [
        np.mean(answer_scores(options, question.answers))
        for question, options in zip(questions, candidates, strict=True)
    ]
    return AnswerRanking(
        accuracy=float(score_Q.mean()),
        interval=rate_interval(hits_G, counts_G, rng),
        chance=float(np.mean(guessed)),
        majority=float(np.mean([answer_score(commonest, question.answers) for question in questions])),
        named=named,
        score_Q=score_Q,
        score_G=hits_G,
        questions_G=counts_G,
    )
