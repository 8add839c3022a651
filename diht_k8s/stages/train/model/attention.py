"""Attention on CPUs: fp32 inside a bf16 training, because torch's bf16 backward kernel is up to 20 times slower.

The fused fp32 kernel is as fast as the unfused bf16 one, holds no matrix of tokens by tokens, and is the more exact.
GPUs keep theirs.
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
    """Compute torch's attention in fp32 in this context: torch's layers look the function up by name."""
    nn.functional.scaled_dot_product_attention = _in_fp32
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = _usual


def needs_fp32_attention(device: torch.device, precision: str, *, compiled: bool) -> bool:
    """Whether attention is slower in the training's own precision; compiled towers choose their own kernels."""
    return device.type == "cpu" and precision == "bf16" and not compiled
