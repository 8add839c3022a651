"""The losses over gloo ranks: value and averaged gradients equal those of the global batch in one process, for any
number."""

from __future__ import annotations

import itertools

import pytest
import torch

from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import (
    duplicate_share,
    hn_nce_loss,
    hn_nce_loss_and_statistics,
    soft_label_loss,
)
from tests.recipe.train.losses_rank import largest_error, literal_loss, pairs, with_gradients
from tests.recipe.train.small_run import gang

PROGRAM = "tests.recipe.train.losses_rank"


def number(value):
    return torch.tensor(value, dtype=torch.float64)


CAPTION_IDS = torch.tensor([0, 1, 2, 3, 1, 5, 6, 7, 8, 0, 10, 11])
STATISTICS_SETTINGS = {"alpha": 1.0, "beta": 0.5, "differentiate_weights": True, "chunk_size": 4}


def soft_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 9, generator=generator)
    ids = torch.randint(9, (12, 3), generator=generator)
    mask = torch.tensor([True] * 7 + [False] * 5)  # the last ranks have few or none
    return logits, ids, torch.full((12, 3), 1 / 3), mask


def embeddings(without=()):
    """Of a teacher, which has none of some images."""
    made = torch.nn.functional.normalize(torch.randn(12, 2, 5, generator=torch.Generator().manual_seed(2)), dim=2)
    made[list(without), 0] = 0
    return made.half()


SHARED = 9
"""Pairs that two ranks and more do not divide, except for three: the last one of four has none, the last two of
seven."""


def shared_cases():
    for scale, alpha, beta, through in itertools.product([20.0, 100.0], [0.0, 0.5, 1.0], [0.0, 0.5], [True, False]):
        settings = {"alpha": alpha, "beta": beta, "differentiate_weights": through, "chunk_size": 2}
        yield "shared_hn_nce", (*pairs(SHARED), number(scale), None), settings
    yield "shared_hn_nce", (*pairs(SHARED), number(20.0), CAPTION_IDS[:SHARED]), {"beta": 0.5}
    yield "shared_statistics", (*pairs(SHARED), number(50.0), CAPTION_IDS[:SHARED]), STATISTICS_SETTINGS
    logits, *labels = (each[:SHARED] for each in soft_labels())
    yield "shared_soft_label", (logits.double(), *labels), {}
    # The last ranks have few or none, and the tiles of different ranks other peaks.
    for scale, temperature, without in ((50.0, 0.07, [1, 7]), (90.0, 0.01, [1, 6, 7, 8])):
        teacher = embeddings(without)[:SHARED]
        yield (
            "shared_embedding",
            (*pairs(SHARED), number(scale), teacher),
            {"temperature": temperature, "chunk_size": 2},
        )


CASES = [
    ("hn_nce", (*pairs(12), number(50.0), None), {"beta": 0.0}),
    ("unequal", pairs(6), {}),
    *shared_cases(),
]


def run_ranks(cases, ranks, folder):
    torch.save(cases, folder / "cases.pt")
    gang(PROGRAM, folder, ranks)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(ranks)]


def results_of(ranks, cases, tmp_path_factory):
    """Pairs of a case and the list of what each rank returned."""
    per_rank = run_ranks(cases, ranks, tmp_path_factory.mktemp("ranks"))
    return list(zip(cases, zip(*per_rank, strict=True), strict=True))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return results_of(2, CASES, tmp_path_factory)


@pytest.fixture(scope="module", params=[2, 3, 4, 7])
def shared(request, tmp_path_factory):
    """Of ranks that mostly do not divide the pairs."""
    if request.param == 2:
        return request.getfixturevalue("two_ranks")
    return results_of(request.param, list(shared_cases()), tmp_path_factory)


def of_pairs(per_rank, num_local):
    """As `averaged`, of the pairs alone; surplus rows have no gradient at all."""
    value, *gradients = averaged(per_rank, num_local)
    assert not any(local[SHARED:].any() for local in gradients[:num_local])
    return [value, *(local[:SHARED] for local in gradients[:num_local]), *gradients[num_local:]]


def of_kind(results, kind):
    return [(case, per_rank) for case, per_rank in results if case[0] == kind]


def averaged(per_rank, num_local):
    """As DDP and DeepSpeed see it: gradients of local rows joined and divided by the ranks, those of shared inputs
    averaged."""
    ranks = len(per_rank)
    value, *gradients = zip(*per_rank, strict=True)
    local = [torch.cat(parts) / ranks for parts in gradients[:num_local]]
    return [torch.stack(value).mean(), *local, *(torch.stack(parts).mean(0) for parts in gradients[num_local:])]


def test_hn_nce_loss_over_ranks_of_equally_many_rows_is_that_of_all_of_them(two_ranks):
    [((_, (image, text, scale, _), settings), per_rank)] = of_kind(two_ranks, "hn_nce")
    inputs = [side.clone().requires_grad_() for side in (image, text, scale)]
    assert largest_error(averaged(per_rank, 2), with_gradients(literal_loss(*inputs, **settings), *inputs)) <= 1e-12


def test_hn_nce_loss_when_ranks_hold_unequal_batches_says_so_on_every_rank(two_ranks):
    [(_, messages)] = of_kind(two_ranks, "unequal")
    assert all(
        "local batches differ between ranks: (pairs, width) = [(6, 8), (5, 8)" in message for message in messages
    )


def test_hn_nce_loss_over_any_number_of_ranks_equals_the_literal_formula(shared):
    for (_, (image, text, scale, ids), settings), per_rank in of_kind(shared, "shared_hn_nce"):
        inputs = [side.clone().requires_grad_() for side in (image, text, scale)]
        if ids is None:
            formula = {key: value for key, value in settings.items() if key != "chunk_size"}
            wanted = with_gradients(literal_loss(*inputs, **formula), *inputs)
        else:
            wanted = with_gradients(hn_nce_loss(*inputs, caption_ids_B=ids, **settings), *inputs)
        assert largest_error(of_pairs(per_rank, 2), wanted) <= 1e-12, settings
        assert len({rank[0].item() for rank in per_rank}) == 1


def test_statistics_over_any_number_of_ranks_are_those_of_the_pairs(shared):
    [((_, (image, text, scale, ids), settings), per_rank)] = of_kind(shared, "shared_statistics")
    found = hn_nce_loss_and_statistics(image, text, scale, HnNceSettings(**settings, group=None), ids)[1]
    wanted = [*found, duplicate_share(ids)]
    assert all(largest_error(rank, wanted) <= 1e-12 for rank in per_rank)


def test_soft_label_loss_over_any_number_of_ranks_is_that_of_the_pairs(shared):
    [((_, (logits, *labels), _settings), per_rank)] = of_kind(shared, "shared_soft_label")
    logits = logits.clone().requires_grad_()
    wanted = with_gradients(soft_label_loss(logits, *labels), logits)
    assert largest_error(of_pairs(per_rank, 1), wanted) <= 1e-12


def test_embedding_loss_over_any_number_of_ranks_is_that_of_the_pairs(shared):
    for (_, (image, text, scale, teacher), settings), per_rank in of_kind(shared, "shared_embedding"):
        inputs = [side.clone().requires_grad_() for side in (image, text, scale)]
        wanted = with_gradients(embedding_loss(*inputs, teacher, temperature=settings["temperature"]), *inputs)
        assert largest_error(of_pairs(per_rank, 2), wanted) <= 1e-12
