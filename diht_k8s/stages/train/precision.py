"""Precisions of a training: the check that a device computes in one, attention on CPUs, loss scaling.

Attention on CPUs is fp32 inside a bf16 training, because torch's bf16 backward kernel is up to 20 times slower. The
fused fp32 kernel is as fast as the unfused bf16 one, holds no matrix of tokens by tokens, and is the more exact. GPUs
keep theirs.

In fp16 small gradients become 0 and large ones infinite. So the loss is multiplied by a scale before it goes backward,
and the gradients are divided by it before they are clipped. The scale is halved in a step with non-finite gradients,
which is skipped, and doubled after a while without one. The scaler is ours, not torch's GradScaler, because its two
numbers belong to the checkpoint and every rank and ZeRO stage must scale alike; T4 cards have no bf16, so fp16 stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from diht_k8s.api.errors import UserError

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the names of `train.precision` and `train.gradientReduction`."""


def require_precision(device: torch.device, precision: str) -> None:
    """Refuse what the device lacks or only imitates.

    Raises:
        UserError: fp16 on a CPU, where bf16 is at least as good; bf16 on a GPU without it; a GPU that this torch was
            not built for.
    """
    if device.type == "cuda":
        _require_kernels(device)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 needs a GPU: use bf16 or fp32 on this machine")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"train.precision bf16 is not supported by {name}: use fp16 or fp32 on this machine")


def _require_kernels(device: torch.device) -> None:
    """Refuse a card of whose generation torch has neither kernels nor code that its driver could compile."""
    major, minor = torch.cuda.get_device_capability(device)
    built = [name for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]
    if not built:  # ROCm names its architectures otherwise
        return
    for name in built:
        kind, _, digits = name.partition("_")
        least = int(digits.rstrip("af")[:-1]), int(digits.rstrip("af")[-1])
        if least <= (major, minor) and (kind == "compute" or least[0] == major):
            return
    raise UserError(
        f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (compute capability "
        f"{major}.{minor}; "
        f"it was built for {', '.join(built)}): take another card, or an image with a torch that was built for it"
    )


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


LOSS_SCALE: Final = "loss_scale"
"""Key of the scaling in a training's state."""
FIRST_SCALE: Final = 2.0**16
GROWTH_STEPS: Final = 2000
"""Good steps after which the scale is doubled. All three numbers are those of torch's GradScaler."""
MIN_SCALE: Final = 1.0
"""Below it fp16 gains nothing: gradients that are not finite even here are not for want of range."""


@dataclass
class LossScale:
    """The scale of the next step."""

    scale: float = FIRST_SCALE
    good_steps: int = 0
    """steps since the scale changed."""

    def update(self, *, overflow: bool) -> None:
        """Take in whether the gradients of a step were not finite, on any rank."""
        if overflow:
            self.scale, self.good_steps = max(self.scale / 2, MIN_SCALE), 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0

    def state(self) -> Tensor:
        """The scaling as a tensor, which `of` reads."""
        return torch.tensor([self.scale, self.good_steps], dtype=torch.float64)

    @staticmethod
    def of(state: Tensor) -> LossScale:
        """The scaling of a checkpoint."""
        scale, good_steps = state.tolist()
        return LossScale(scale, int(good_steps))
