"""One rank of the tests of the order of collectives: `train_rank.py`, with what all ranks issued beside each job's
results.

Usage: order_rank.py FOLDER, with torchrun's variables. Without any job rank 1 issues two reductions in the other order
than rank 0 does, and rank 0 writes what both issued.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from diht_k8s.stages.train.collectives import gather_objects
from tests.recipe.train import train_rank
from tests.recipe.train.collective_order import issued, keep_records, next_record

recorded = train_rank.recorded


def with_calls(job: dict[str, Any]) -> dict[str, Any]:
    first = next_record("gloo")
    found = recorded(job)
    return {**found, "calls": gather_objects(issued("gloo", first))}


def parting(folder: Path) -> None:
    dist.init_process_group("gloo")
    groups = [dist.group.WORLD, dist.new_group()]
    first = next_record("gloo")
    if os.environ["RANK"] == "1":
        groups.reverse()
    for work in [dist.all_reduce(torch.ones(4), group=group, async_op=True) for group in groups]:
        assert work is not None
        work.wait()
    found = gather_objects(issued("gloo", first))
    if dist.get_rank() == 0:
        torch.save(found, folder / "results.pt")
    dist.destroy_process_group()


def main(place: str) -> None:
    keep_records()
    if json.loads((Path(place) / "jobs.json").read_text()):
        train_rank.recorded = with_calls
        train_rank.main(place)
    else:
        parting(Path(place))


if __name__ == "__main__":
    main(sys.argv[1])
    train_rank.leave(0)
