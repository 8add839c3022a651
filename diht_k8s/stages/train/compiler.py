"""What torch.compile and Triton need on a machine: a compiler, Python's C headers, Triton itself."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


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
