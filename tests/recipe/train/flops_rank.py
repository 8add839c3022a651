"""One rank that counts the operations of real steps of the engine: `flops_rank FOLDER`, in which it reads cases.json.

For each case {"train", "heads", "teacher_width"} it writes the operations of a step over a batch of `BATCH` pairs, as
torch's counter sees them, and those of the meter, into counted.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.runtime.rank_exit import leave
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.stages.train.distributed import init_process_groups
from diht_k8s.stages.train.engine import Engine
from diht_k8s.stages.train.flops import MfuMeter, StepWork
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.setup import adapt_student

END = 49407
"""The end token of a caption."""
LENGTHS = (3, 5, 2, 9, 12, 4, 4, 7)
"""Tokens of the captions of a batch."""
BATCH = len(LENGTHS)


def _addmm(_sum: Any, left: Any, right: Any, **_rest: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def batch_of(model: Student, heads: tuple[int, int], teacher_width: int, *, stored: bool) -> Batch:
    tokens_BT = torch.zeros(BATCH, model.clip.context_length, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        tokens_BT[row, :length] = 7
        tokens_BT[row, length - 1] = END
    targets = None
    if heads[0]:
        soft = [HeadTargets(torch.zeros(BATCH, 1, dtype=torch.long), torch.ones(BATCH, 1)) for _ in heads]
        targets = BatchTargets(soft[0], soft[1], torch.ones(BATCH, dtype=torch.bool))
    seen = torch.randint(0, 256, (BATCH, model.image_size, model.image_size, 3), dtype=torch.uint8)
    if stored:
        assert model.locked is not None
        seen = model.locked(seen.permute(0, 3, 1, 2).float() / 255)
    teacher = torch.randn(BATCH, 2, teacher_width).half() if teacher_width else None
    return Batch(seen, tokens_BT, torch.arange(BATCH), targets, [""] * BATCH, {}, teacher_B2E=teacher)


def counted(case: dict[str, Any]) -> dict[str, float]:
    train = Train.model_validate(
        {"samples": BATCH, "batchSize": BATCH, "precision": "fp32", "zeroStage": 0, **case["train"]}
    )
    heads, teacher_width = (case["heads"], case["heads"]) if case["heads"] else (0, 0), case["teacher_width"]
    named = {"num_objects": heads[0], "num_attributes": heads[1]}
    model = Student(model_configuration(train), **named, heads_input=train.distillation.heads_input)
    if train.lock_image_tower:
        model.lock_image_tower()
    adapt_student(model, train, rank=0, world=1)
    engine = Engine(train, model, rank=0, world=1)
    batch = batch_of(model, heads, teacher_width, stored=train.features == "Stored")
    with (
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm}) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        engine.step(batch, number=0)
    work = StepWork(train, **named)
    meter = MfuMeter(work, 1.0, batch_size=BATCH, world=1, micro_batch=engine.micro_batch)
    parts = [LENGTHS[begin : begin + engine.micro_batch] for begin in range(0, BATCH, engine.micro_batch)]
    settings = {"teacher_width": teacher_width, "in_parts": len(parts) > 1}
    executed = sum(len(part) * work.of_pair(max(part), **settings).executed for part in parts)
    return {"step": counter.get_total_flops(), "executed": executed, "meter": meter.operations(batch)}


def main(folder: str) -> None:
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(
        False
    )  # a locked tower's attention would be one operator, unknown to the counter
    init_process_groups()
    cases = json.loads((Path(folder) / "cases.json").read_text())
    found = {name: counted(case) for name, case in cases.items()}
    (Path(folder) / "counted.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
    leave(0)
