"""`train.compile`: torch.compile for each residual block of the towers, and the check for its compiler.

Blocks of a tower are alike, so torch compiles one and uses it for all: that takes seconds where a whole tower takes
minutes, and gains nearly as much, because what fuses (norms, GELU, residual sums, casts) lies inside blocks. Names of
weights stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import nn

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.compiler import missing_compiler
from diht_k8s.stages.train.model.student import Student

BLOCKS: Final = (ResidualAttentionBlock, CustomResidualAttentionBlock)
MAX_VARIANTS: Final = 64
"""Versions of a block that torch keeps: both towers, with and without gradients, training and validation, lengths of
captions. At its default of 8 it would fall back to the uncompiled block without an error."""


def compile_blocks(model: Student) -> None:
    """Have torch compile the towers at their first steps; a tower without transformer blocks (ResNet, timm) as a whole."""
    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    torch._inductor.config.fallback_random = (
        True  # dropout draws as without a compiler, so alike in both of a batch's passes
    )
    for part in _parts(model.image_tower):
        part.compile()
    for part in _parts(model.clip.transformer):
        part.compile(dynamic=True)  # captions of other lengths


def _parts(tower: nn.Module) -> list[nn.Module]:
    return [module for module in tower.modules() if isinstance(module, BLOCKS)] or [tower]


def require_compiler(device_type: str, headers: Path | None = None) -> None:
    """Find what torch's compiler calls, in the places where it looks.

    Args:
        device_type: cpu (C++ kernels) or cuda (Triton's kernels, whose launchers are C).
        headers: folder of Python's C headers; this interpreter's by default.

    Raises:
        UserError: something is missing; the message names it.
    """
    missing = missing_compiler(device_type, headers)
    if missing is not None:
        raise UserError(f"train.compile needs {missing}, or set train.compile: false")
