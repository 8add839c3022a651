"""One rank of the GPU tier: `tests/recipe/train/train_rank.py`, with the device of each rank beside each job's results.

Usage: rank.py FOLDER, with torchrun's variables. A job that fails is recorded, so that the next ones still run.
"""

from __future__ import annotations

import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from diht_k8s.api.documents import load
from diht_k8s.recipe.train.collectives import gather_objects
from diht_k8s.recipe.train.distributed import choose_algorithms
from tests.recipe.train import train_rank

recorded = train_rank.recorded


def tolerant(job: dict[str, Any]) -> dict[str, Any]:
    choose_algorithms(load(job["run"], name="job").spec.train.deterministic)
    if torch.cuda.is_initialized():  # not before the first training has set its device
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        found = recorded(job)
    except Exception:
        return {"error": f"1 {traceback.format_exc()}", "losses": []}
    return {**found, "peak": peak_bytes(), "backend": dist.get_backend(), "devices": gather_objects(device())}


def device() -> str:
    """What torch takes where no device is named."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def peak_bytes() -> int:
    """Most bytes of tensors on the card since the job began; on a CPU, of the whole process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    train_rank.recorded = tolerant
    train_rank.main(Path(sys.argv[1]))
