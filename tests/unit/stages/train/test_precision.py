"""Precision: what a device is refused for, and the scale of fp16's loss."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.precision import (
    FIRST_SCALE,
    GROWTH_STEPS,
    LossScale,
    attention_in_fp32,
    needs_fp32_attention,
    require_precision,
)


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "message"),
    [
        ("fp16", "cpu", False, "train.precision fp16 needs a GPU: use bf16 or fp32 on this machine"),
        ("bf16", "cuda", False, "train.precision bf16 is not supported by Old card: use fp16 or fp32 on this machine"),
        ("bf16", "cuda", True, None),
        ("fp16", "cuda", False, None),
        ("bf16", "cpu", False, None),
        ("fp32", "cuda", False, None),
    ],
)
def test_precision_when_the_device_lacks_it_then_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, has_bf16: bool, message: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
    if message is None:
        require_precision(torch.device(device), precision)
        return
    with pytest.raises(UserError) as raised:
        require_precision(torch.device(device), precision)
    assert str(raised.value) == message


CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        pytest.param((7, 0), CUDA_13, False, id="V100"),
        pytest.param((7, 5), CUDA_13, True, id="T4"),
        pytest.param((8, 9), CUDA_13, True, id="L4 by 8.6's kernels"),
        pytest.param((10, 3), CUDA_13, True, id="B300 by 10.0's"),
        pytest.param((9, 0), ["sm_80", "sm_100"], False, id="H100 with kernels of other generations"),
        pytest.param((9, 0), ["sm_80", "compute_80"], True, id="H100 by code that the driver compiles"),
        pytest.param((9, 0), ["sm_90a"], True, id="H100 by its own features"),
        pytest.param((8, 0), ["sm_86"], False, id="A100 with later kernels of its generation"),
        pytest.param((12, 1), CUDA_13[:-1], True, id="a later card of a generation"),
    ],
)
def test_card_when_torch_was_not_built_for_it_then_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    if runs:
        require_precision(torch.device("cuda"), "fp32")
        return
    with pytest.raises(UserError, match=r"no kernels for A card \(compute capability \d\.\d; it was built for sm_"):
        require_precision(torch.device("cuda"), "fp32")


def test_scale_when_new_then_that_of_torch() -> None:
    assert torch.amp.GradScaler("cpu", enabled=True).get_scale() == FIRST_SCALE


def test_scale_when_gradients_overflow_then_halved_and_doubled_after_many_good_steps() -> None:
    scaling = LossScale()
    scaling.update(overflow=True)
    assert scaling.scale == FIRST_SCALE / 2
    for _ in range(GROWTH_STEPS - 1):
        scaling.update(overflow=False)
    assert scaling.scale == FIRST_SCALE / 2
    scaling.update(overflow=False)
    assert (scaling.scale, scaling.good_steps) == (FIRST_SCALE, 0)


def test_scale_when_a_step_overflows_then_the_count_of_good_steps_starts_again() -> None:
    scaling = LossScale(8.0, GROWTH_STEPS - 1)
    scaling.update(overflow=True)
    scaling.update(overflow=False)
    assert (scaling.scale, scaling.good_steps) == (4.0, 1)


def test_scale_when_at_its_smallest_then_stays() -> None:
    scaling = LossScale(1.0, 3)
    scaling.update(overflow=True)
    assert scaling.scale == 1.0


def test_scale_when_saved_then_the_same_again() -> None:
    scaling = LossScale(2.0**20, 1234)
    assert LossScale.of(scaling.state()) == scaling


# Shape legend: B batch, T tokens, W width.


@pytest.mark.parametrize("masked", [False, True])
def test_attention_when_in_bf16_then_nearer_to_fp32_and_of_the_same_type(masked: bool) -> None:
    torch.manual_seed(0)
    layer, x_BTW = nn.MultiheadAttention(32, 4, batch_first=True), torch.randn(8, 16, 32)
    mask = torch.full((16, 16), float("-inf")).triu(1) if masked else None

    def gradient(mode: contextlib.AbstractContextManager[object], *, half: bool) -> tuple[torch.dtype, torch.Tensor]:
        with mode, torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = layer(x_BTW, x_BTW, x_BTW, attn_mask=mask, need_weights=False)[0]
            return out.dtype, torch.autograd.grad(out.float().square().sum(), layer.in_proj_weight)[0]

    _, exact = gradient(contextlib.nullcontext(), half=False)
    dtype, usual = gradient(contextlib.nullcontext(), half=True)
    ours_dtype, ours = gradient(attention_in_fp32(), half=True)
    assert ours_dtype is dtype is torch.bfloat16
    assert not torch.equal(ours, usual)
    assert (ours - exact).norm() <= 1.02 * (usual - exact).norm()
    assert (ours - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("half", [False, True])
def test_attention_when_its_inputs_are_fp32_then_of_the_type_that_torch_gives(half: bool) -> None:
    query = torch.randn(1, 2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        usual = nn.functional.scaled_dot_product_attention(query, query, query)
        with attention_in_fp32():
            ours = nn.functional.scaled_dot_product_attention(query, query, query)
    assert ours.dtype is usual.dtype is (torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize(
    ("device", "precision", "compiled", "changed"),
    [
        ("cpu", "bf16", False, True),
        ("cpu", "fp32", False, False),
        ("cpu", "bf16", True, False),
        ("cuda", "bf16", False, False),
    ],
)
def test_attention_when_chosen_then_changed_only_where_the_kernel_is_slow(
    device: str, precision: str, compiled: bool, changed: bool
) -> None:
    assert needs_fp32_attention(torch.device(device), precision, compiled=compiled) is changed
