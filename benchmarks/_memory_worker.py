"""One rank of `estimate`: trains on random pairs, prints its tensors' peak bytes."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from benchmarks._settled import settle_collectives
from diht_k8s.api.train import Train
from diht_k8s.runtime.signals import leave
from diht_k8s.stages.train.checkpoint.tensors import Ema
from diht_k8s.stages.train.collectives import init_process_groups
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.stages.train.engine import Engine
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student

STEPS = 3
TOP_K = 10
MARK = "step-mark"


def main() -> None:
    """Train and print."""
    case = json.loads(sys.argv[1])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settle_collectives()
    init_process_groups()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        _train(case, rank, world)
    kineto: Any = profiler.profiler
    events = kineto.kineto_results.events()
    starts = sorted(event.start_ns() for event in events if event.name() == MARK)
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held, peaks = 0, [0] * (STEPS + 1)
    for at, change in changes:
        held += change
        step = sum(start <= at for start in starts)
        peaks[step] = max(peaks[step], held)
    if rank == 0:
        print(json.dumps({"setup": peaks[0], "first_step": peaks[1], "steps": max(peaks[2:])}))
    dist.destroy_process_group()


def _train(case: dict[str, Any], rank: int, world: int) -> None:
    train = Train.model_validate({"samples": 1, **case["train"]})
    objects, attributes = case["heads"]
    torch.manual_seed(0)
    config = model_configuration(train)
    model = Student(config, num_objects=objects, num_attributes=attributes)
    if train.activation_checkpointing:
        model.set_grad_checkpointing()
    engine = Engine(train, model, rank=rank, world=world)
    ema = Ema(engine.deepspeed, model, train.ema) if train.ema else None
    for step in range(STEPS):
        with torch.profiler.record_function(MARK):
            pass
        engine.step(_batch(train.batch_size // world, model, objects, attributes), number=step)
        if ema is not None:
            ema.update(step + 1)


def _batch(pairs: int, model: Student, objects: int, attributes: int) -> Batch:
    side, length = model.image_size, model.clip.context_length
    tokens_BT = torch.randint(1, 1000, (pairs, length))
    tokens_BT[:, -1] = 49407  # the end token: captions fill the context
    targets = None
    if objects:
        heads = [
            HeadTargets(torch.randint(0, number, (pairs, TOP_K)), torch.full((pairs, TOP_K), 1 / TOP_K))
            for number in (objects, attributes)
        ]
        targets = BatchTargets(heads[0], heads[1], torch.ones(pairs, dtype=torch.bool))
    pixels_BHWC = torch.randint(0, 256, (pairs, side, side, 3), dtype=torch.uint8)
    return Batch(pixels_BHWC, tokens_BT, torch.arange(pairs), targets, [""] * pairs, {})


if __name__ == "__main__":
    main()
    leave(0)
