"""The loss on a teacher's embeddings against its formula written out literally in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, normalize

from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import hn_nce_loss_and_statistics


def unit(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def student(pairs, width=8, dtype=torch.float64):
    return tuple(unit(pairs, width, seed=seed, dtype=dtype).requires_grad_() for seed in (1, 2))


def teacher(pairs, width=5, without=()):
    made = unit(pairs, 2, width, seed=3)
    made[list(without), 0] = 0
    return made


def number(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def literal_loss(image, text, scale, teacher_B2E, temperature):
    """KL of each row of two matrices of similarities, both ways, among the pairs that have an embedding."""
    used = (teacher_B2E[:, 0] != 0).any(dim=1)
    student_z = scale * image[used] @ text[used].T
    teacher_z = teacher_B2E[used, 0] @ teacher_B2E[used, 1].T / temperature
    ways = ((student_z, teacher_z), (student_z.T, teacher_z.T))
    both = [kl_div(log_softmax(z, 1), log_softmax(t, 1), log_target=True, reduction="batchmean") for z, t in ways]
    return sum(both) / 2


def with_gradients(loss, *inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def largest_error(got, wanted):
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
@pytest.mark.parametrize(
    ("pairs", "without"),
    [(2, ()), (3, (1,)), (37, (0, 5, 36)), (64, ()), (64, tuple(range(0, 64, 2)))],
    ids=["two", "one-without", "ends-without", "all", "every-other"],
)
def test_loss_over_a_grid_equals_the_literal_formula(pairs, without, temperature):
    inputs = (*student(pairs), number(1 / 0.03))
    theirs = teacher(pairs, without=without)
    wanted = with_gradients(literal_loss(*inputs, theirs, temperature), *inputs)
    assert wanted[0] > 1e-3
    for chunk_size in (1, 10, 32, 256):
        loss = embedding_loss(*inputs, theirs, temperature=temperature, chunk_size=chunk_size)
        assert largest_error(with_gradients(loss, *inputs), wanted) <= 1e-12, chunk_size


def test_loss_when_checked_by_finite_differences_passes():
    theirs = teacher(6, without=(2,))
    assert torch.autograd.gradcheck(
        lambda *inputs: embedding_loss(*inputs, theirs, temperature=0.2, chunk_size=4), (*student(6, 3), number(5.0))
    )


def test_loss_when_the_student_has_the_teachers_similarities_then_zero_with_zero_gradient():
    image, text = student(12)
    inputs = (image, text, number(100.0))
    loss = embedding_loss(*inputs, torch.stack([image, text], 1).detach(), temperature=0.01, chunk_size=5)
    assert largest_error(with_gradients(loss, *inputs), [torch.zeros_like(each) for each in (loss, *inputs)]) <= 1e-12


def test_loss_when_no_pair_has_an_embedding_then_zero_with_zero_gradient():
    inputs = (*student(4), number(50.0))
    loss = embedding_loss(*inputs, teacher(4, without=range(4)), temperature=0.01)
    assert all(not each.any() for each in with_gradients(loss, *inputs))


def test_loss_of_stored_halves_and_bf16_features_is_computed_in_fp32():
    image, text = student(40)
    theirs = teacher(40, without=(3,)).half()
    rounded = [side.detach().bfloat16().requires_grad_() for side in (image, text)]
    exact = [side.detach().double().requires_grad_() for side in rounded]
    got = with_gradients(embedding_loss(*rounded, number(100.0, torch.float32), theirs, temperature=0.01), *rounded)
    wanted = with_gradients(literal_loss(*exact, 100.0, theirs.double(), 0.01), *exact)
    assert [each.dtype for each in got] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert abs(got[0] - wanted[0]) <= 1e-5 * wanted[0]
    assert all((a.double() - b).norm() <= 1e-2 * b.norm() for a, b in zip(got[1:], wanted[1:], strict=True))


def test_loss_when_the_teachers_rows_are_one_hot_then_the_gradient_is_that_of_infonce():
    inputs = (*student(16), number(20.0))
    one_hot = torch.stack([torch.eye(16, dtype=torch.float64)] * 2, dim=1)
    got = torch.autograd.grad(embedding_loss(*inputs, one_hot, temperature=1e-3), inputs)
    settings = HnNceSettings(alpha=1.0, beta=0.0, differentiate_weights=True, chunk_size=16, group=None)
    wanted = torch.autograd.grad(hn_nce_loss_and_statistics(*inputs, settings)[0], inputs)
    assert largest_error(got, wanted) <= 1e-12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"chunk_size": 0}, "chunk_size 0"),
        ({"theirs": teacher(5)}, "(pairs, 2, width)"),
        ({"theirs": teacher(4)[:, 0]}, "(pairs, 2, width)"),
        ({"text": student(4, 7)[1]}, "row i of one with row i of the other"),
    ],
)
def test_loss_when_shapes_or_settings_are_wrong_then_says_which(change, says):
    image, text = student(4)
    given = {"theirs": teacher(4), "text": text, "temperature": 0.01, "chunk_size": 8} | change
    theirs, text = given.pop("theirs"), given.pop("text")
    with pytest.raises(ValueError) as caught:
        embedding_loss(image, text, number(10.0), theirs, **given)
    assert says in str(caught.value)
