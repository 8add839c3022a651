"""`train.compile`: torch.compile for each residual block of the towers, and what it and Triton need on a machine.

Blocks of a tower are alike, so torch compiles one and uses it for all: that takes seconds where a whole tower takes
minutes, and gains nearly as much, because what fuses (norms, GELU, residual sums, casts) lies inside blocks. Names of
weights stay.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Final

import torch
from torch import nn

from diht_k8s.api.errors import UserError


def missing_compiler(device_type: str, headers: Path | None = None) -> str | None:
    """What is not there, and how to install it; None if nothing is missing.

    Args:
        device_type: cpu (C++ kernels) or cuda (Triton's kernels, whose launchers are C).
        headers: folder of Python's C headers; this interpreter's by default.
    """
    name, variable, programs = (
        ("C++ compiler", "CXX", ("g++",)) if device_type == "cpu" else ("C compiler", "CC", ("gcc", "clang"))
    )
    named = os.environ.get(variable)
    if not any(shutil.which(program) for program in ((named,) if named else programs)):
        told = f"{variable} is {named}" if named else f"neither {variable} nor {' nor '.join(programs)} is there"
        return f"a {name}, and {told}: install {programs[0]} (the recipe image has it)"
    headers = Path(sysconfig.get_path("include")) if headers is None else headers
    if not (headers / "Python.h").is_file():
        return f"Python's C headers, and {headers} has no Python.h: install them (Debian: python3-dev)"
    if device_type != "cpu" and importlib.util.find_spec("triton") is None:
        return "Triton, which is not installed: install it (pip install triton)"
    return None


MAX_VARIANTS: Final = 64
"""Versions of a block that torch keeps: both towers, with and without gradients, training and validation, lengths of
captions. At its default of 8 it would fall back to the uncompiled block without an error."""


def compile_blocks(image_tower: nn.Module, text_tower: nn.Module) -> None:
    """Have torch compile the towers at their first steps; one without transformer blocks (ResNet, timm) as a whole."""
    import torch._inductor.config as inductor  # slow to import, and only compiling needs it

    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    # Dropout draws as without a compiler, so alike in both passes of a micro-batch.
    inductor.fallback_random = True
    for part in _parts(image_tower):
        part.compile()
    for part in _parts(text_tower):
        part.compile(dynamic=True)  # captions of other lengths


def _parts(tower: nn.Module) -> list[nn.Module]:
    from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock  # seconds, unlike the check

    blocks = (ResidualAttentionBlock, CustomResidualAttentionBlock)
    return [module for module in tower.modules() if isinstance(module, blocks)] or [tower]


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
