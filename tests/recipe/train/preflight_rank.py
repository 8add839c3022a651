"""A rank that runs the preflight four times: preflight_rank.py FOLDER SLOW, with torchrun's variables.

First the fabric shall be faster than it is, with rank SLOW held up before each exchange, and writes with it; then any
speed will do; then the output cannot be written; then it is the second round of the same pods. What each found goes to
FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from diht_k8s.api.reports import ROUNDS_VARIABLE, Rounds
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE
from diht_k8s.runtime.rank_exit import leave
from diht_k8s.stages.train.bandwidth import SlowFabricError
from diht_k8s.stages.train.rendezvous import FabricReport, init_distributed
from tests.folders import flat
from tests.recipe.train.bandwidth_rank import EXCHANGE_DELAY_S, held_up
from tests.recipe.train.small_run import document

NOT_TO_BE_REACHED = 1e5


def main(place: str, slow: str) -> None:
    folder = Path(place)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def preflight(name: str, minimum: float | None = None) -> FabricReport:
        settings = document(folder, minBusBandwidth=minimum).spec.train
        assert settings is not None
        return init_distributed(settings, storage, flat(folder / name), rank=rank, world=world)

    found: dict[str, Any] = {}
    storage, write = Storage(), Storage.write_bytes
    all_reduce, exchange = dist.all_reduce, dist.batch_isend_irecv
    if rank == int(slow):
        dist.all_reduce, dist.batch_isend_irecv = held_up(all_reduce), held_up(exchange, EXCHANGE_DELAY_S)
    Storage.write_bytes = held_up(write)
    try:
        preflight("slow", NOT_TO_BE_REACHED)
    except SlowFabricError as error:
        found["error"] = str(error)
        found["written first"] = (folder / "slow" / "train" / "preflight.json").is_file()
    dist.all_reduce, dist.batch_isend_irecv, Storage.write_bytes = all_reduce, exchange, write
    del os.environ[FOLDER_VARIABLE]
    well = preflight("well")
    found["well"] = [well.bus_bandwidth, [node.node for node in well.worst]]
    (folder / "unwritten").write_text("a file where the output's folder should be")
    found["unwritten"] = [node.node for node in preflight("unwritten").worst]
    os.environ[ROUNDS_VARIABLE] = Rounds(round=2).model_dump_json()
    found["second round"] = preflight("second") == FabricReport()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave(0)
