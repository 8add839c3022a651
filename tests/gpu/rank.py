"""One rank of the GPU tier: `tests/recipe/train/train_rank.py`, with more beside each job's results: the devices of all
ranks, the collectives that they issued, what became of each step.

Usage: rank.py FOLDER, with torchrun's variables. A job that fails is recorded, so that the next ones still run.
"""

from __future__ import annotations

import resource
import sys
import traceback
from typing import Any

import torch
import torch.distributed as dist

from diht_k8s.api.documents import load
from diht_k8s.runtime.signals import leave
from diht_k8s.stages.train.collectives import BACKENDS, choose_algorithms, device_type, gather_objects
from diht_k8s.stages.train.engine import Engine
from tests.recipe.train import train_rank
from tests.recipe.train.collective_order import issued, keep_records, next_record

recorded = train_rank.recorded


def tolerant(job: dict[str, Any]) -> dict[str, Any]:
    choose_algorithms(load(job["run"], name="job").spec.train.deterministic)
    if torch.cuda.is_initialized():  # not before the first training has set its device
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    backend = BACKENDS[device_type()]
    first, updates, step = next_record(backend), list[tuple[str, float | None]](), Engine.step

    def noting(engine: Engine, batch: Any) -> Any:
        result = step(engine, batch)
        updates.append((engine.update.name, None if engine.scaling is None else engine.scaling.scale))
        return result

    Engine.step = noting
    try:
        found = recorded(job)
    except Exception:
        return {"error": f"1 {traceback.format_exc()}", "losses": []}
    finally:
        Engine.step = step
    more = {"peak": peak_bytes(), "backend": dist.get_backend(), "updates": updates}
    calls, where = gather_objects(issued(backend, first)), gather_objects(device())
    return {**found, **more, "calls": calls, "devices": where}


def device() -> str:
    """What torch takes where no device is named."""
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def peak_bytes() -> int:
    """Most bytes of tensors on the card since the job began; on a CPU, of the whole process so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: str) -> None:
    keep_records()
    train_rank.recorded = tolerant
    train_rank.main(folder)


if __name__ == "__main__":
    main(sys.argv[1])
    leave(0)
