"""One of two ranks that make groups as a training does, and later ones; puts the time-outs into a queue."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import init_device_mesh

from diht_k8s.api.train import Train
from diht_k8s.stages.train import engine
from diht_k8s.stages.train.distributed import init_process_groups
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_run import VIT


def seconds(group: dist.ProcessGroup) -> float:
    options: Any = group._get_backend(distributed_c10d._get_pg_default_device(group)).options
    return options._timeout.total_seconds()


def told(rank: int, port: int, timeout_s: int, answers: Any) -> None:
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    init_process_groups(timeout_s)
    for stage in range(4):
        train = Train(samples=8, batch_size=8, zero_stage=stage, precision="fp32")
        engine.Engine(train, Student(VIT), rank=rank, world=2)
    of_training = len(distributed_c10d._world.pg_map)
    init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))
    dist.new_group([0, 1])
    found = [seconds(group) for group in distributed_c10d._world.pg_map]
    nccl = distributed_c10d._get_default_timeout(dist.Backend("nccl")).total_seconds()
    answers.put((of_training, found, nccl))
    dist.destroy_process_group()
