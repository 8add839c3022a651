"""A rank whose gang hangs, without a training around it: all ranks exchange, then one does what the test wants.

Usage: hanging_rank.py FOLDERS RANK HOW, with torchrun's variables; FOLDERS are those of the nodes' watchdogs, joined by
commas, and ranks are spread over them. HOW is what rank RANK does before its fourth sum.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE, Heartbeat
from diht_k8s.runtime.rank_exit import leave
from diht_k8s.stages.train.flight_recorder import FlightRecorder


def in_backward() -> None:
    weight = torch.ones(4, requires_grad=True)
    weight.register_hook(lambda gradient: time.sleep(600))
    weight.sum().backward()


ACTIONS = {
    "sleeps": lambda: time.sleep(600),
    "in backward": in_backward,
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def main(places: str, culprit: str, how: str) -> None:
    folders = places.split(",")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    node = rank * len(folders) // world
    os.environ[FOLDER_VARIABLE] = folders[node]
    heartbeat = Heartbeat(rank)
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    side = dist.new_group(backend="gloo")
    assert not isinstance(side, int)
    FlightRecorder(rank, world, node=f"node-{node}")
    values = torch.ones(4)
    for step in range(6):
        heartbeat.step()
        dist.barrier(group=side)
        if step == 3 and rank == int(culprit):
            ACTIONS[how]()
        dist.all_reduce(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave(0)
