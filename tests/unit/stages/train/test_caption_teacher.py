"""The kernel regression knows captions and words near theirs; as a teacher it draws the same on any number of
processes, and gives one loss.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.model.caption_teacher import CaptionTeacher
from diht_k8s.stages.train.model.kernel_regression import KernelRegression, fit_kernel_regression

VOCABULARY, START, END = 60, 58, 59
WORDS = 40
"""Tokens 0 to 39 have vectors; each of the first 20 is near one of the others."""
BATCH, DIMENSION = 10, 6
CPU = torch.device("cpu")


def vectors() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    found = np.zeros((VOCABULARY, 16), np.float32)
    found[:20] = rng.normal(size=(20, 16)) / 4
    found[20:WORDS] = found[:20] + rng.normal(size=(20, 16)) / 40
    return found


def captions(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens of captions of as many words each."""
    ends = np.full((len(words), 1), END)
    return np.concatenate([np.full_like(ends, START), words, ends, np.zeros_like(ends)], axis=1)


def fitted() -> tuple[KernelRegression, NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(1)
    meanings = rng.normal(size=(20, DIMENSION))
    words = rng.integers(0, 20, (300, 2))
    targets = meanings[words].sum(axis=1)
    return fit_kernel_regression(captions(words), targets, vectors(), pairs=len(words)), words, targets


def cosines(found: NDArray[np.floating], wanted: NDArray[np.floating]) -> NDArray[np.floating]:
    return (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


def test_regression_when_words_are_near_those_of_captions_then_it_says_nearly_the_same_of_them() -> None:
    regression, words, targets = fitted()
    known = cosines(regression.embeddings(captions(words)), targets)
    near = cosines(regression.embeddings(captions(words + 20)), targets)
    others = cosines(regression.embeddings(captions((words + 7) % 20 + 20)), targets)
    assert known.mean() > 0.95
    assert near.mean() > 0.7
    assert others.mean() < 0.4


def test_regression_when_a_caption_has_no_word_then_it_is_finite_and_far_from_none() -> None:
    regression, _, _ = fitted()
    assert np.isfinite(regression.embeddings(captions(np.full((1, 2), 50)))).all()


def teacher_of(share: BatchShare) -> tuple[CaptionTeacher, NDArray[np.int64]]:
    regression, words, _ = fitted()
    return CaptionTeacher(regression, captions(words), 3, share), words


@pytest.mark.parametrize("world", [2, 3, 4])
def test_lesson_when_processes_share_a_batch_then_texts_and_loss_are_those_of_one(world: int) -> None:
    rng = np.random.default_rng(2)
    texts = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(BATCH, DIMENSION))).float(), dim=-1)
    alone, _ = teacher_of(BatchShare(BATCH, 0, 1))
    whole = alone.lesson(5, CPU)
    expected = alone.loss(texts, whole)
    total, tokens = 0.0, list[torch.Tensor]()
    for rank in range(world):
        share = BatchShare(BATCH, rank, world)
        rows = torch.arange(share.first, share.first + share.rows).clamp(max=BATCH - 1)  # surplus rows hold anything
        teacher, _ = teacher_of(share)
        lesson = teacher.lesson(5, CPU)
        tokens.append(lesson.tokens_BT[: share.pairs])
        total += float(teacher.loss(texts[rows], lesson)) / world
    assert torch.equal(torch.cat(tokens), whole.tokens_BT)
    assert total == pytest.approx(float(expected), abs=1e-6)


def test_lesson_when_the_step_is_another_then_so_are_its_texts_of_two_captions_or_of_words_with_vectors() -> None:
    teacher, words = teacher_of(BatchShare(400, 0, 1))
    lessons = [teacher.lesson(step, CPU) for step in (5, 5, 6)]
    assert torch.equal(lessons[0].tokens_BT, lessons[1].tokens_BT)
    assert not torch.equal(lessons[0].tokens_BT, lessons[2].tokens_BT)
    joined, whole = 0, {tuple(pair) for pair in words.tolist()}
    for row in lessons[0].tokens_BT.tolist():
        text = row[1 : row.index(END)]
        assert (row[0], {*row[len(text) + 2 :]} <= {0}, max(text) < WORDS) == (START, True, True)
        joined += len(text) == 2 and max(text) < 20 and tuple(text) not in whole
    assert joined > 50  # halves of two captions; few of them are a third one
    torch.testing.assert_close(lessons[0].targets_BD.norm(dim=1), torch.ones(400))


def test_loss_when_texts_are_where_the_teacher_has_them_then_zero() -> None:
    teacher, _ = teacher_of(BatchShare(BATCH, 0, 1))
    lesson = teacher.lesson(0, CPU)
    assert float(teacher.loss(lesson.targets_BD, lesson)) == pytest.approx(0, abs=1e-5)
    assert float(teacher.loss(-lesson.targets_BD, lesson)) == pytest.approx(2, abs=1e-5)
