"""Visual question answering as the ranking of candidate answers. Pure.

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
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.recipe.evaluate.bootstrap import Interval, rate_interval

FULL_AGREEMENT: Final = 3
"""Annotators who must have given the same answer for a score of 1."""
QUESTION: Final = "{question}"
ANSWER: Final = "{answer}"


@dataclass(frozen=True)
class VisualQuestion:
    """One question about an image."""

    text: str
    answers: tuple[str, ...]
    """one for each annotator."""
    candidates: tuple[str, ...] = ()
    """answers to choose from; empty: the benchmark's list."""


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
    worth_Q: NDArray[np.float64]
    worth_G: NDArray[np.float64]
    """sum over each image's questions, images in order."""
    questions_G: NDArray[np.float64]


@lru_cache(maxsize=1 << 16)  # every question has the same options
def normalised(answer: str) -> str:
    """An answer without case, surrounding white space and a final full stop, for comparison."""
    return " ".join(answer.casefold().split()).rstrip(".")


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
    """Figures from scores; the first of equal scores is chosen.

    Args:
        questions: Q questions.
        images_Q: index of each question's image.
        candidates: A candidate answers of each question.
        scores: [A] of each question, higher is better.
        rng: draws of the bootstrap.
    """
    named = [options[int(np.argmax(row_A))] for options, row_A in zip(candidates, scores, strict=True)]
    worth_Q = np.array([answer_score(name, question.answers) for name, question in zip(named, questions, strict=True)])
    said = Counter(normalised(answer) for question in questions for answer in question.answers)
    commonest = min(said, key=lambda answer: (-said[answer], answer))
    _, group_of_Q = np.unique(images_Q, return_inverse=True)
    counts_G = np.bincount(group_of_Q).astype(np.float64)
    hits_G = np.bincount(group_of_Q, weights=worth_Q).astype(np.float64)
    guessed = [
        np.mean(answer_scores(options, question.answers))
        for question, options in zip(questions, candidates, strict=True)
    ]
    return AnswerRanking(
        accuracy=float(worth_Q.mean()),
        interval=rate_interval(hits_G, counts_G, rng),
        chance=float(np.mean(guessed)),
        majority=float(np.mean([answer_score(commonest, question.answers) for question in questions])),
        named=named,
        worth_Q=worth_Q,
        worth_G=hits_G,
        questions_G=counts_G,
    )
