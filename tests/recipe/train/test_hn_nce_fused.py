"""The fused HN-NCE in Triton's interpreter, on one and more ranks, against the tiles in float64; what it loads and
stores."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import hn_nce_loss_and_statistics
from tests.recipe.train import losses_rank
from tests.recipe.train.small_run import gang

PROGRAM = "tests.recipe.train.interpreted_rank"
MODULES = (losses_rank.__name__,)  # Triton must not be imported before its interpreter is asked for


pairs = functools.partial(losses_rank.pairs, dtype=torch.float32)


def captions(batch, distinct):
    return torch.randint(distinct, (batch,), generator=torch.Generator().manual_seed(1))


def same_texts(batch, width):
    image, text = pairs(batch, width)
    text[1::2] = text[::2][: batch // 2]
    return image, text


SCALE = torch.tensor(100.0)
GRID = [
    {"alpha": alpha, "beta": beta, "differentiate_weights": differentiate}
    for alpha, beta, differentiate in itertools.product([0.0, 0.5, 1.0], [0.0, 0.5], [True, False])
]
HARD = {"alpha": 1.0, "beta": 0.25, "differentiate_weights": True}
CASES = {
    **{f"settings {number}": (*pairs(18, 8), SCALE, captions(18, 12), each) for number, each in enumerate(GRID)},
    "no captions given": (*pairs(37, 20), SCALE, None, HARD),
    "no captions given, weights of 1": (*pairs(18, 8), SCALE, None, {**HARD, "beta": 0.0}),
    "captions given": (*pairs(37, 20), SCALE, captions(37, 30), HARD),
    "blocks that are full": (*pairs(64, 32), SCALE, None, HARD),
    "a width of many parts": (*pairs(9, 72), SCALE, captions(9, 6), HARD),
    "a width that is no multiple of 8": (*pairs(20, 13), SCALE, None, HARD),
    "four pairs": (*pairs(4, 8), SCALE, None, HARD),
    "all captions equal": (*pairs(12, 8), SCALE, torch.zeros(12, dtype=torch.int64), HARD),
    "one pair has another caption": (*pairs(12, 8), SCALE, torch.arange(12) // 11, HARD),
    "exponentials that overflow": (*same_texts(20, 16), SCALE, None, {**HARD, "beta": 3.0}),
    "weights that are nearly one-hot": (*pairs(21, 16), SCALE, None, {**HARD, "beta": 8.0}),
    "easy pairs, whose gradients are tiny": (*pairs(20, 32, noise=0.05), SCALE, None, HARD),
    "logits near 0": (*pairs(21, 16), torch.tensor(0.01), None, HARD),
    "bf16": (*pairs(21, 24, dtype=torch.bfloat16), SCALE, captions(21, 15), HARD),
    "fp16": (*pairs(21, 24, dtype=torch.float16), SCALE, captions(21, 15), HARD),
}
SHARED = [
    "no captions given",
    "captions given",
    "four pairs",
    "all captions equal",
    "exponentials that overflow",
    "bf16",
]
"""Cases that are divided over ranks, too."""
LOCKED = {
    "image tower": (False, True, True),
    "text tower": (True, False, True),
    "both towers": (False, False, True),
    "scale": (True, True, False),
}
"""Whether image features, text features and the scale have gradients."""
NOT_FINITE = [(torch.nan, 0), (torch.inf, 1), (-torch.inf, 1)]


def small():
    return *pairs(20, 16), SCALE.clone(), captions(20, 15)


def spoiled(value, side):
    sides = [each.clone() for each in pairs(20, 16)]
    sides[side][7, 3] = value
    return *sides, SCALE, None


def run(ranks, loads, cases, folder):
    torch.save(cases, folder / "cases.pt")
    gang(PROGRAM, folder, ranks, loads, modules=MODULES)
    return list(zip(*(torch.load(folder / f"rank-{rank}.pt") for rank in range(ranks)), strict=True))


@pytest.fixture(scope="module", params=[(1, "described"), (2, "pointers"), (3, "described")], ids=str)
def found(request, tmp_path_factory):
    """By case: what each rank found."""
    ranks, loads = request.param
    names = list(CASES) if ranks == 1 else SHARED
    cases = [("whole", CASES[name][:-1], CASES[name][-1]) for name in names]
    return dict(zip(names, run(ranks, loads, cases, tmp_path_factory.mktemp("interpreted")), strict=True))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one rank finds out about features that are not finite, locked towers and torch.compile."""
    cases = [("whole", spoiled(*each), HARD) for each in NOT_FINITE]
    cases += [("locked", small(), {**HARD, "trained": trained}) for trained in LOCKED.values()]
    cases.append(("compiled", small(), HARD))
    results = iter([each for (each,) in run(1, "described", cases, tmp_path_factory.mktemp("alone"))])
    return {
        "not finite": [next(results) for _ in NOT_FINITE],
        "locked": [next(results) for _ in LOCKED],
        "compiled": next(results),
    }


def relative(ours, wanted):
    return ((ours.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30)).item()


def in_float64(image, text, scale, ids, settings):
    """Loss, gradients and statistics by the tiles."""
    inputs = [each.double().requires_grad_() for each in (image, text, scale)]
    full = HnNceSettings(**settings, chunk_size=16, group=None)
    loss, statistics = hn_nce_loss_and_statistics(*inputs, full, ids)
    return loss.detach(), torch.autograd.grad(loss, inputs), statistics


def test_loss_and_gradients_equal_those_of_the_tiles_in_float64(found):
    for name, per_rank in found.items():
        *inputs, settings = CASES[name]
        loss, gradients, _ = in_float64(*inputs, settings)
        values, image, text, scale, _ = zip(*per_rank, strict=True)
        assert all(torch.equal(value, values[0]) for value in values), name
        assert values[0].dtype == torch.float32
        assert (values[0].double() - loss).abs() <= 2e-6 * max(1, loss.abs()), name
        bound = 1e-5 * (1 + settings["beta"]) + torch.finfo(inputs[0].dtype).eps / 2
        for side, wanted in zip((image, text), gradients, strict=False):
            joined = torch.cat(side)  # those of surplus rows last
            assert joined.dtype == inputs[0].dtype
            assert not joined[len(wanted) :].any(), name
            assert relative(joined[: len(wanted)] / len(values), wanted) <= bound, name
        assert (torch.stack(scale).mean() - gradients[2]).abs() <= bound * max(1e-2, gradients[2].abs()), name


def test_statistics_equal_those_of_the_tiles_in_float64(found):
    for name, per_rank in found.items():
        *inputs, settings = CASES[name]
        wanted = torch.stack([*in_float64(*inputs, settings)[2]])
        for *_, statistics in per_rank:
            assert torch.allclose(statistics.double(), wanted, rtol=1e-5 * (1 + settings["beta"]), atol=0), name


def test_loss_of_a_feature_that_is_not_finite_is_not_finite_either(alone):
    for loss, *gradients, _ in alone["not finite"]:
        assert not loss.isfinite()
        assert not any(gradient.isfinite().all() for gradient in gradients)


def test_what_is_locked_has_no_gradient_and_the_rest_has_its_own(alone):
    loss, gradients, _ = in_float64(*small(), HARD)
    for trained, (value, *found) in zip(LOCKED.values(), alone["locked"], strict=True):
        assert (value.double() - loss).abs() <= 2e-6 * loss
        wanted = [gradient for gradient, asked in zip(gradients, trained, strict=True) if asked]
        assert all(relative(*each) <= 2e-5 for each in zip(found, wanted, strict=True)), trained


def test_function_that_torch_compiles_takes_the_kernels_as_they_are(alone):
    loss, gradients, _ = in_float64(*small(), HARD)
    value, *found = alone["compiled"]
    assert (value.double() - loss).abs() <= 2e-6 * loss
    assert all(relative(*each) <= 2e-5 for each in zip(found, gradients[:2], strict=True))


def test_share_of_a_rank_without_pairs_is_among_the_cases():
    assert BatchShare(4, 2, 3).pairs == 0
