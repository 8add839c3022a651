"""The student's side of distillation against an independent float64 version: loss and gradient over the whole
vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diht_k8s.stages.label.soft_labels import top_k
from diht_k8s.stages.train.loss.losses import soft_label_loss

B, C, K = 7, 23, 4
LABELLED = [True, False, True, True, False, True, True]


def dense(ids: np.ndarray, probabilities: np.ndarray, logits: np.ndarray) -> tuple[float, np.ndarray]:
    """-sum_c p_c log softmax_c over all C classes, mean over labelled images; gradient (softmax - p) / labelled."""
    gradient, losses = np.zeros((B, C)), []
    for row in range(B):
        if not LABELLED[row]:
            continue
        target = np.zeros(C)
        for number, probability in zip(ids[row], probabilities[row], strict=True):
            target[number] += probability
        top = logits[row].max()
        log_sum = top + math.log(math.fsum(math.exp(value - top) for value in logits[row]))
        losses.append(math.fsum(p * (log_sum - value) for p, value in zip(target, logits[row], strict=True)))
        gradient[row] = (np.exp(logits[row] - log_sum) * target.sum() - target) / sum(LABELLED)
    return math.fsum(losses) / len(losses), gradient


@pytest.mark.parametrize("stored", [False, True], ids=["before-storage", "after-storage"])
def test_student_loss_when_compared_then_loss_and_gradient_are_those_of_dense_targets(stored: bool) -> None:
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(B, C)) * 6, rng.dirichlet(np.full(C, 0.3), size=B)
    ids = np.argsort(-teacher, axis=1)[:, :K]
    probabilities = np.take_along_axis(teacher, ids, axis=1)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wanted, gradient = dense(ids, probabilities, logits)
    given = probabilities
    if stored:
        found, halves = top_k(teacher.astype(np.float32), K)
        assert found.tolist() == ids.tolist()
        given = halves.astype(np.float32) / halves.astype(np.float32).sum(axis=1, keepdims=True)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = soft_label_loss(leaf, torch.tensor(ids), torch.tensor(given), torch.tensor(LABELLED))
    loss.backward()
    assert leaf.grad is not None
    tolerance = 1e-3 if stored else 1e-12
    assert float(loss.detach()) == pytest.approx(wanted, rel=tolerance)
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=tolerance)


def test_student_loss_when_the_teacher_may_say_nothing_then_mass_weighs_and_silent_images_do_not_count() -> None:
    """Rows that sum to 1.8, 0.4 and 0: the target of the first is divided, the second counts less, the third not at
    all.
    """
    logits = np.random.default_rng(3).normal(size=(3, 5))
    ids, probabilities = np.array([[0, 3], [2, 1], [4, 0]]), np.array([[0.9, 0.9], [0.4, 0.0], [0.0, 0.0]])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(0.5 * log_p[0, 0] + 0.5 * log_p[0, 3] + 0.4 * log_p[1, 2]) / 2
    leaf, labelled = torch.tensor(logits, requires_grad=True), torch.ones(3, dtype=torch.bool)
    loss = soft_label_loss(leaf, torch.tensor(ids), torch.tensor(probabilities), labelled)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert leaf.grad is not None
    assert not leaf.grad[2].any()
    nothing = soft_label_loss(leaf, torch.tensor(ids), torch.zeros(3, 2), labelled)
    assert float(nothing.detach()) == 0
