"""This machine: CPU cores, memory, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from diht_k8s.stages.train.estimate.gpus import name_of_product


@dataclass(frozen=True)
class Machine:
    """The resources of a machine."""

    cores: int
    memory_gib: float = 0.0
    gpus: int = 0
    gpu: str | None = None
    """the name of the first one in `stages.train.estimate.gpus`; None where that is not known."""


def this_machine() -> Machine:
    """Cores that this process may use, all memory, GPUs that it may see."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names, visible = _listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        len(names) if visible is None else len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    )
    return Machine(
        len(os.sched_getaffinity(0)), memory / 2**30, gpus, name_of_product(names[0]) if gpus and names else None
    )


def _listed() -> list[str]:
    """Names of the GPUs of this machine: `NVIDIA H100 80GB HBM3` of a line `GPU 0: NVIDIA H100 80GB HBM3 (UUID: ...)`."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    listed = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)  # noqa: S603 (no shell)
    lines = (line for line in listed.stdout.splitlines() if line.startswith("GPU "))
    return [line.partition(": ")[2].partition(" (UUID")[0] for line in lines]
