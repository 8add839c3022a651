"""The losses against their formulas written out literally in float64, and where float64 overflows against mpmath."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import mpmath
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from diht_k8s.stages.train.loss import losses
from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import (
    LossBlocks,
    clamped_logit_scale,
    duplicate_share,
    hn_nce_loss,
    hn_nce_loss_and_statistics,
    plan_for,
    soft_label_loss,
)
from tests.recipe.train import losses_rank
from tests.recipe.train.losses_rank import largest_error, literal_loss, with_gradients


def pairs(*size, **kind):
    return tuple(side.requires_grad_() for side in losses_rank.pairs(*size, **kind))


def number(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("differentiate_weights", [True, False], ids=["through-weights", "fixed-weights"])
@pytest.mark.parametrize("temperature", [0.07, 0.02, 0.01])
@pytest.mark.parametrize("batch", [2, 3, 37, 64])
def test_hn_nce_loss_over_a_grid_equals_the_literal_formula(batch, temperature, differentiate_weights):
    image, text = pairs(batch)
    scale = number(1 / temperature)
    for alpha, beta in itertools.product([0.0, 0.5, 0.999, 1.0], [0.0, 0.25, 0.5, 1.0]):
        settings = {"alpha": alpha, "beta": beta, "differentiate_weights": differentiate_weights}
        wanted = with_gradients(literal_loss(image, text, scale, **settings), image, text, scale)
        for chunk_size in (1, 10, 32, 256):
            loss = hn_nce_loss(image, text, scale, chunk_size=chunk_size, **settings)
            error = largest_error(with_gradients(loss, image, text, scale), wanted)
            assert error <= 1e-12, (settings, chunk_size)


def mpmath_loss(image, text, scale, alpha, beta):
    """The literal formula in 60 digits, where e^{(1 + beta) s} overflows nothing."""
    size = len(image)
    z = [[scale * mpmath.fdot(u, v) for v in text] for u in image]
    total = mpmath.mpf(0)
    for side in (z, list(zip(*z, strict=True))):
        for i in range(size):
            others = [j for j in range(size) if j != i]
            normaliser = mpmath.fsum(mpmath.exp(beta * side[i][j]) for j in others)
            mass = mpmath.fsum(
                (size - 1) * mpmath.exp(beta * side[i][j]) / normaliser * mpmath.exp(side[i][j]) for j in others
            )
            total -= mpmath.log(mpmath.exp(side[i][i]) / (alpha * mpmath.exp(side[i][i]) + mass))
    return total / (2 * size)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_hn_nce_loss_when_beta_is_8_at_temperature_001_equals_mpmath(alpha):
    image, text = pairs(6, width=3, noise=0.5)
    scale = number(100.0)
    assert not literal_loss(image, text, scale, beta=8.0).isfinite()  # what makes this case need more than float64
    loss, d_image, _, d_scale = with_gradients(
        hn_nce_loss(image, text, scale, alpha=alpha, beta=8.0), image, text, scale
    )
    with mpmath.workdps(60):
        u, v = ([[mpmath.mpf(x) for x in row] for row in side.tolist()] for side in (image, text))
        wanted = mpmath_loss(u, v, mpmath.mpf(100), alpha, 8)
        wanted_scale = mpmath.diff(lambda s: mpmath_loss(u, v, s, alpha, 8), mpmath.mpf(100))
        wanted_entry = mpmath.diff(lambda x: mpmath_loss([[x, *u[0][1:]], *u[1:]], v, 100, alpha, 8), u[0][0])
        assert abs(loss.item() - wanted) <= 1e-12 * abs(wanted)
        assert abs(d_scale.item() - wanted_scale) <= 1e-12 * max(1, abs(wanted_scale))
        assert abs(d_image[0, 0].item() - wanted_entry) <= 1e-12 * max(1, abs(wanted_entry))


def relative_l2(got, wanted):
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def test_hn_nce_loss_when_captions_repeat_at_temperature_001_stays_exact_in_fp32():
    image, text = pairs(64)
    with torch.no_grad():
        text[1::2] = text[::2]
    image32, text32 = (side.detach().float().requires_grad_() for side in (image, text))
    assert not literal_loss(image32, text32, 100.0).isfinite()
    got = with_gradients(
        hn_nce_loss(image32, text32, scale32 := number(100.0, torch.float32)), image32, text32, scale32
    )
    wanted = with_gradients(hn_nce_loss(image, text, scale := number(100.0)), image, text, scale)
    assert all(relative_l2(a, b) <= 1e-4 for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hn_nce_loss_when_features_have_16_bits_sums_in_fp32(dtype):
    image, text = pairs(32, dtype=dtype)
    exact = [side.detach().double().requires_grad_() for side in (image, text)]
    got = with_gradients(2**8 * hn_nce_loss(image, text, 100.0), image, text)  # scaled as fp16 training does
    wanted = with_gradients(2**8 * hn_nce_loss(*exact, 100.0), *exact)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == dtype
    assert relative_l2(got[0], wanted[0]) <= 1e-5
    assert all(relative_l2(a, b) <= torch.finfo(dtype).eps for a, b in zip(got[1:], wanted[1:], strict=True))


def test_hn_nce_loss_under_autocast_is_the_same():
    image, text = pairs(32, dtype=torch.float32)
    wanted = with_gradients(hn_nce_loss(image, text, 100.0), image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = with_gradients(hn_nce_loss(image, text, 100.0), image, text)
    assert largest_error(got, wanted) == 0


@pytest.mark.parametrize(("dtype", "result"), [(torch.float64, torch.float64), (torch.float32, torch.float32)])
def test_hn_nce_loss_when_the_scale_is_a_plain_number_is_that_of_a_tensor_with_64_bits(dtype, result):
    image, text = pairs(12, dtype=dtype)
    loss = hn_nce_loss(image, text, 1 / 0.07)
    assert loss.dtype == result
    assert loss == hn_nce_loss(image, text, number(1 / 0.07))


def test_hn_nce_loss_when_a_tower_is_locked_gives_the_other_the_same_gradient():
    image, text = pairs(12)
    _, d_image, d_text = with_gradients(hn_nce_loss(image, text, 20.0), image, text)
    (image_only,) = torch.autograd.grad(hn_nce_loss(image, text.detach(), 20.0), image)
    (text_only,) = torch.autograd.grad(hn_nce_loss(image.detach(), text, 20.0), text)
    assert largest_error([image_only, text_only], [d_image, d_text]) == 0


def test_hn_nce_loss_when_a_positive_lies_far_below_the_hardest_negative_stays_finite():
    """In linear space, shifted by the row's maximum, such a positive underflows to -log 0."""
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    logits = 100 * image @ text.T
    shifted = (logits - logits.amax(1, keepdim=True)).exp()
    assert (-(shifted.diagonal() / shifted.sum(1)).log()).isinf().any()
    assert hn_nce_loss(image, text, 100.0) == pytest.approx((200 + 100 + math.log(2) + 100) / 4, rel=0.5)
    assert hn_nce_loss(image, text, 100.0).isfinite()


@pytest.mark.parametrize("chunk_size", [1, 4, 256])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.25), (0.0, 0.5), (0.5, 0.0)])
def test_hn_nce_loss_with_caption_ids_leaves_equal_captions_out_of_the_negatives(alpha, beta, chunk_size):
    image, text = pairs(10)
    scale, ids = number(20.0), torch.tensor([4, 1, 4, 2, 9, 4, 2, 7, 8, 3])
    settings = {"alpha": alpha, "beta": beta}
    wanted = literal_loss(image, text, scale, negative=ids[:, None] != ids[None, :], **settings)
    got = hn_nce_loss(image, text, scale, caption_ids_B=ids, chunk_size=chunk_size, **settings)
    assert largest_error(with_gradients(got, image, text, scale), with_gradients(wanted, image, text, scale)) <= 1e-12


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.25])
def test_hn_nce_loss_when_all_captions_are_equal_is_zero(alpha, beta):
    image, text = pairs(4, dtype=torch.float32)
    loss = hn_nce_loss(image, text, 100.0, alpha=alpha, beta=beta, caption_ids_B=torch.zeros(4, dtype=torch.int64))
    assert all(not value.any() for value in with_gradients(loss, image, text))


@pytest.mark.filterwarnings("error")  # PyTorch warns where a buffer of the wrong shape must grow
@pytest.mark.parametrize("batch", [512, 500])
def test_hn_nce_loss_on_a_large_batch_never_forms_the_batch_by_batch_matrix(batch):
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(value.numel() for value in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(value))
            return result

    image, text = pairs(batch, width=16, dtype=torch.float32)
    with Sizes():
        hn_nce_loss(image, text, 50.0, chunk_size=32, caption_ids_B=torch.arange(batch)).backward()
    assert max(sizes) == 32 * batch


def test_hn_nce_loss_and_statistics_when_one_pair_is_swapped_counts_it():
    features = torch.eye(4, dtype=torch.float64)
    swapped = features[[1, 0, 2, 3]]
    settings = HnNceSettings(alpha=1.0, beta=0.5, differentiate_weights=True, chunk_size=3, group=None)
    loss, statistics = hn_nce_loss_and_statistics(features, swapped, 10.0, settings)
    assert loss == hn_nce_loss(features, swapped, 10.0, beta=0.5, chunk_size=3)
    assert (statistics.image_to_text_top1.item(), statistics.text_to_image_top1.item()) == (0.5, 0.5)
    peaked = 3 * math.exp(5) / (math.exp(5) + 2)  # rows 0 and 1: one negative at logit 10, two at 0
    assert statistics.hardest_weight.item() == pytest.approx((peaked + 1.0) / 2)


FEATURES = torch.eye(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FEATURES, FEATURES[:3], 1.0, {}), r"\(4, 4\).*\(3, 4\)"),
        ((FEATURES[0], FEATURES[0], 1.0, {}), "must be"),
        ((FEATURES[:1], FEATURES[:1], 1.0, {}), "at least 2"),
        ((FEATURES, FEATURES, 1.0, {"num_pairs": 1}), "at least 2"),
        ((FEATURES, FEATURES, 1.0, {"num_pairs": 5}), "num_pairs is 5: the ranks hold 4 rows"),
        ((FEATURES.long(), FEATURES, 1.0, {}), "floating point"),
        ((FEATURES, FEATURES, torch.ones(2), {}), "one number"),
        ((FEATURES, FEATURES, 1.0, {"alpha": 1.5}), "alpha is 1.5"),
        ((FEATURES, FEATURES, 1.0, {"alpha": math.nan}), "alpha is nan"),
        ((FEATURES, FEATURES, 1.0, {"beta": -1.0}), "beta is -1.0"),
        ((FEATURES, FEATURES, 1.0, {"chunk_size": 0}), "chunk_size is 0"),
        ((FEATURES[:, :3], FEATURES[:, :3], 1.0, {"caption_ids_B": torch.zeros(3)}), r"\(3,\).*\(4,\)"),
    ],
)
def test_hn_nce_loss_when_input_is_bad_says_what(arguments, message):
    *inputs, settings = arguments
    with pytest.raises(ValueError, match=message):
        hn_nce_loss(*inputs, **settings)


@pytest.mark.parametrize("ids", [None, [4, 1, 4, 2, 9, 4, 2, 7]], ids=["all negatives", "captions masked"])
@pytest.mark.parametrize("chunk_size", [1, 3, 256])
def test_hn_nce_loss_with_surplus_rows_is_that_of_the_pairs(chunk_size, ids):
    image, text = pairs(8)
    ids = None if ids is None else torch.tensor(ids)
    scale, settings = number(20.0), {"chunk_size": chunk_size, "beta": 0.5}
    wanted = with_gradients(hn_nce_loss(image, text, scale, caption_ids_B=ids, **settings), image, text, scale)
    longer = [torch.cat([side, torch.full((3, 8), 5.0)]) for side in (image, text)]
    more_ids = None if ids is None else torch.cat([ids, torch.tensor([4, 4, 1])])
    loss = hn_nce_loss(*longer, scale, caption_ids_B=more_ids, num_pairs=8, **settings)
    value, *of_rows, of_scale = with_gradients(loss, *longer, scale)
    assert largest_error([value, *(gradient[:8] for gradient in of_rows), of_scale], wanted) == 0
    assert not any(gradient[8:].any() for gradient in of_rows)


@pytest.mark.parametrize(
    ("log_scale", "upstream", "scale", "gradient"),
    [
        (1.0, 1.0, math.e, math.e),
        (9.0, -1.0, 100.0, 0.0),  # descent would raise it further
        (9.0, 1.0, 100.0, 100.0),
        (9.0, 0.005, 100.0, 0.5),
        (-1.0, 1.0, 1.0, 0.0),
        (-1.0, -1.0, 1.0, -1.0),
    ],
)
def test_clamped_logit_scale_at_a_bound_lets_only_the_way_back_pass(log_scale, upstream, scale, gradient):
    parameter = number(log_scale)
    value = clamped_logit_scale(parameter)
    value.backward(torch.tensor(upstream, dtype=torch.float64))
    assert value.item() == pytest.approx(scale)
    assert parameter.grad.item() == pytest.approx(gradient)


def soft_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator, requires_grad=True)
    ids = torch.stack([torch.randperm(11, generator=generator)[:3] for _ in range(6)])
    probabilities = torch.rand(6, 3, generator=generator)
    return logits, ids, probabilities / probabilities.sum(1, keepdim=True)


@pytest.mark.parametrize(("ids", "share"), [([1, 2, 3, 4], 0.0), ([1, 2, 1, 4], 0.5), ([7, 7, 7, 4], 0.75)])
def test_duplicate_share_counts_every_pair_that_is_not_alone_with_its_caption(ids, share):
    assert float(duplicate_share(torch.tensor(ids))) == share


@pytest.mark.parametrize("labelled", [6, 2, 1])
def test_soft_label_loss_equals_dense_cross_entropy_over_the_labelled(labelled):
    logits, ids, probabilities = soft_labels()
    dense = torch.zeros(6, 11).scatter(1, ids, probabilities)
    wanted = torch.nn.functional.cross_entropy(logits[:labelled], dense[:labelled])
    got = soft_label_loss(logits, ids, probabilities, torch.arange(6) < labelled)
    assert largest_error(with_gradients(got, logits), with_gradients(wanted, logits)) <= 1e-6


def test_soft_label_loss_when_some_have_no_labels_is_the_mean_over_the_others():
    logits, ids, probabilities = soft_labels()
    mask = torch.tensor([True, False, True, False, True, True])
    wanted = soft_label_loss(logits[mask], ids[mask], probabilities[mask], mask[mask])
    ids[1], probabilities[1], probabilities[3] = 99, math.nan, 7.0
    got = soft_label_loss(logits, ids, probabilities, mask)
    assert largest_error(with_gradients(got, logits), with_gradients(wanted, logits)) <= 1e-6


def test_soft_label_loss_when_a_row_is_short_ignores_the_filling():
    logits, ids, probabilities = soft_labels()
    mask = torch.ones(6, dtype=torch.bool)
    filled_ids, filled = (
        torch.nn.functional.pad(side, (0, 2), value=fill) for side, fill in ((ids, -1), (probabilities, 9))
    )
    assert soft_label_loss(logits, filled_ids, filled, mask) == soft_label_loss(logits, ids, probabilities, mask)


@pytest.mark.parametrize("silent", [False, True], ids=["no labels", "labels that say nothing"])
def test_soft_label_loss_when_nobody_is_labelled_is_zero_with_zero_gradient(silent):
    logits, ids, probabilities = soft_labels()
    loss = soft_label_loss(logits, ids, probabilities * (not silent), torch.full((6,), silent))
    assert all(not value.any() for value in with_gradients(loss, logits))


def test_soft_label_loss_when_rows_do_not_sum_to_one_divides_more_weighs_less_and_leaves_out_the_silent():
    logits, ids, _ = soft_labels()
    probabilities = torch.tensor([[0.9, 0.9, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    log_p = log_softmax(logits, dim=1).gather(1, ids)
    wanted = -(0.5 * log_p[0, 0] + 0.5 * log_p[0, 1] + 0.4 * log_p[1, 0]) / 2
    got = soft_label_loss(logits[:3], ids[:3], probabilities, torch.ones(3, dtype=torch.bool))
    assert largest_error(with_gradients(got, logits), with_gradients(wanted, logits)) <= 1e-6


def test_soft_label_loss_when_logits_have_16_bits_sums_in_fp32():
    logits, ids, probabilities = soft_labels()
    half, mask = logits.detach().bfloat16(), torch.ones(6, dtype=torch.bool)
    got = soft_label_loss(half, ids, probabilities, mask)
    assert got.dtype == torch.float32
    assert got == soft_label_loss(half.float(), ids, probabilities, mask)


def test_soft_label_loss_when_shapes_disagree_says_which():
    logits, ids, probabilities = soft_labels()
    with pytest.raises(ValueError, match=r"\(6, 11\).*\(5, 3\)"):
        soft_label_loss(logits, ids[:5], probabilities, torch.ones(6))


def unit(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def student(pairs, width=8, dtype=torch.float64):
    return tuple(unit(pairs, width, seed=seed, dtype=dtype).requires_grad_() for seed in (1, 2))


def teacher(pairs, width=5, without=()):
    made = unit(pairs, 2, width, seed=3)
    made[list(without), 0] = 0
    return made


def literal_divergence(image, text, scale, teacher_B2E, temperature):
    """KL of each row of two matrices of similarities, both ways, among the pairs that have an embedding."""
    used = (teacher_B2E[:, 0] != 0).any(dim=1)
    student_z = scale * image[used] @ text[used].T
    teacher_z = teacher_B2E[used, 0] @ teacher_B2E[used, 1].T / temperature
    ways = ((student_z, teacher_z), (student_z.T, teacher_z.T))
    both = [kl_div(log_softmax(z, 1), log_softmax(t, 1), log_target=True, reduction="batchmean") for z, t in ways]
    return sum(both) / 2


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
@pytest.mark.parametrize(
    ("pairs", "without"),
    [(2, ()), (3, (1,)), (37, (0, 5, 36)), (64, ()), (64, tuple(range(0, 64, 2)))],
    ids=["two", "one-without", "ends-without", "all", "every-other"],
)
def test_loss_over_a_grid_equals_the_literal_formula(pairs, without, temperature):
    inputs = (*student(pairs), number(1 / 0.03))
    theirs = teacher(pairs, without=without)
    wanted = with_gradients(literal_divergence(*inputs, theirs, temperature), *inputs)
    assert wanted[0] > 1e-3
    for chunk_size in (1, 10, 32, 256):
        loss = embedding_loss(*inputs, theirs, temperature=temperature, chunk_size=chunk_size)
        assert largest_error(with_gradients(loss, *inputs), wanted) <= 1e-12, chunk_size


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
    wanted = with_gradients(literal_divergence(*exact, 100.0, theirs.double(), 0.01), *exact)
    assert [each.dtype for each in got] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert abs(got[0] - wanted[0]) <= 1e-5 * wanted[0]
    assert all((a.double() - b).norm() <= 1e-2 * b.norm() for a, b in zip(got[1:], wanted[1:], strict=True))


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


H100 = (9, 0)


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "capability", "cuda", "missing", "fused"),
    [
        (True, torch.float32, H100, "13.0", None, True),
        (True, torch.bfloat16, (8, 0), "13.0", None, True),
        (True, torch.float16, (12, 0), "13.0", None, True),
        (True, torch.float32, (7, 5), "13.0", None, False),
        (True, torch.float64, H100, "13.0", None, False),
        (True, torch.float32, H100, None, None, False),
        (True, torch.float32, H100, "13.0", "a C compiler", False),
        (False, torch.float32, H100, "13.0", None, False),
    ],
    ids=["H100", "A100 in bf16", "12.0 in fp16", "T4", "float64", "ROCm", "no compiler", "CPU"],
)
def test_fused_kernels_are_chosen_where_they_run(monkeypatch, is_cuda, dtype, capability, cuda, missing, fused):
    major, minor = capability
    card = SimpleNamespace(major=major, minor=minor, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(losses, "missing_compiler", lambda device_type: missing)
    losses._plan_of_card.cache_clear()
    features = SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device="cuda:0")
    plan = losses.fused_plan(features, features)
    assert plan == (plan_for(capability, 132) if fused else None)


@pytest.mark.parametrize("side", [0, 1])
def test_features_of_one_side_in_float64_are_left_to_the_tiles(side):
    sides = [SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda:0") for _ in range(2)]
    sides[side].dtype = torch.float64
    assert losses.fused_plan(*sides) is None


@pytest.fixture(autouse=True)
def forget_the_cards():
    yield
    losses._plan_of_card.cache_clear()


@pytest.mark.parametrize(
    ("width", "parts", "chunks"), [(512, 1, 4), (500, 1, 4), (20, 1, 1), (640, 2, 3), (768, 2, 3), (1024, 2, 4)]
)
def test_parts_of_a_width_cover_it_evenly(width, parts, chunks):
    assert plan_for((9, 0), 132).second.parts(width) == (parts, chunks)


@pytest.mark.parametrize(
    ("rows", "columns", "processors", "shares"),
    [(4096, 32768, 132, 4), (4096, 32768, 108, 3), (32768, 4096, 132, 1), (128, 256, 132, 2), (0, 256, 132, 2)],
)
def test_shares_give_each_processor_at_most_one_program_of_few_rows(rows, columns, processors, shares):
    assert LossBlocks(128, 128, 64, 8, 3).shares(rows, columns, processors) == shares
