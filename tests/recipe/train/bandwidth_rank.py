"""A rank of the preflight's measurement: bandwidth_rank.py FOLDER MINIMUM SLOW NODE..., with torchrun's variables.

Rank SLOW (-1: none) is held up before each exchange. What the rank found, or how it ended, goes to FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from diht_k8s.stages.train.bandwidth import SlowFabricError, check_bandwidth

DELAY_S = 0.2
EXCHANGE_DELAY_S = 1.0
"""so much more than an exchange takes on a busy machine that no other pair looks slow, too."""


def held_up(call: Callable[..., Any], seconds: float = DELAY_S) -> Callable[..., Any]:
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return call(*arguments, **named)

    return slow


def main(folder: str, minimum: str, slow: str, *nodes: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    if rank == int(slow):
        dist.all_reduce = held_up(dist.all_reduce)
        dist.batch_isend_irecv = held_up(dist.batch_isend_irecv, EXCHANGE_DELAY_S)
    try:
        found: Any = check_bandwidth(rank, world, torch.device("cpu"), float(minimum) or None, node=nodes[rank])
    except SlowFabricError as error:
        found = {"says": str(error), "node": error.culprit.node, "exchanges": dict(error.culprit.exchanges)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
