from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from diht_k8s.stages.train.precision import attention_in_fp32, needs_fp32_attention

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
