"""This machine: CPU cores, memory, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """The resources of a machine."""

    cores: int
    memory_gib: float = 0.0
    gpus: int = 0


def this_machine() -> Machine:
    """Cores that this process may use, all memory, GPUs that it may see."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(len(os.sched_getaffinity(0)), memory / 2**30, _gpus(os.environ.get("CUDA_VISIBLE_DEVICES")))


def _gpus(visible: str | None) -> int:
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
