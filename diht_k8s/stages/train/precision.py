"""Precisions of a training, and the check that a device computes in one."""

from __future__ import annotations

from typing import Final

import torch

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
        f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}; "
        f"it was built for {', '.join(built)}): take another card, or an image with a torch that was built for it"
    )
