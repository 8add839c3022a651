"""Attention on CPUs: in fp32 inside a bf16 training, because torch's bf16 kernel takes up to twenty times as long backwards there.

The fused fp32 kernel is as fast as the unfused bf16 one, holds no matrix of tokens by tokens, and is the more exact. GPUs keep theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_usual = nn.functional.scaled_dot_product_attention


def _in_fp32(query: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Attention with every tensor widened, given back in the type that the usual one gives."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    with torch.autocast("cpu", enabled=False):
        wide = [_wide(value) for value in (query, *rest)]
        return _usual(*wide, **{name: _wide(value) for name, value in options.items()}).to(dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def attention_in_fp32() -> Iterator[None]:
    """While this lasts, torch's attention is computed in fp32: its layers look the function up by name, and take no other."""
    nn.functional.scaled_dot_product_attention = _in_fp32
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = _usual


def needs_fp32_attention(device: torch.device, precision: str, *, compiled: bool) -> bool:
    """Whether a training's attention is dearer in its own precision; compiled towers choose their kernels themselves."""
    return device.type == "cpu" and precision == "bf16" and not compiled
