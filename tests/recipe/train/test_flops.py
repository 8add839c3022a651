"""The account of work beside real steps of the engine, whose operations torch counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.stages.train.collectives import init_process_groups
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets
from diht_k8s.stages.train.engine import Engine
from diht_k8s.stages.train.flops import MfuMeter, StepWork
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.setup import adapt_student
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import TINY, Table, gang

PROGRAM = "tests.recipe.train.test_flops"
TIMM = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
LOCKED = {"lockImageTower": True}
EMBEDDINGS = {"distillation": {"embeddings": {"weight": 0.5, "temperature": 0.2}}}
TOWER = {"distillation": {"headsInput": "Tower"}}
HEADS, TEACHER, BATCH = 40, 24, 8
CASES: Table = {
    "plain": {},
    "heads": {"heads": HEADS},
    "heads on the tower": {"heads": HEADS, "train": TOWER},
    "embeddings": {"teacher_width": TEACHER, "train": EMBEDDINGS},
    "patch dropout": {"train": {"patchDropout": 0.5}},
    "micro-batches": {"heads": HEADS, "train": {"microBatchSize": 3}},
    "checkpointing": {"train": {"activationCheckpointing": True}},
    "micro-batches, checkpointing, patch dropout": {
        "train": {"microBatchSize": 4, "activationCheckpointing": True, "patchDropout": 0.5}
    },
    "locked": {"heads": HEADS, "train": LOCKED},
    "locked, heads on the tower": {"heads": HEADS, "train": {**LOCKED, **TOWER}},
    "locked, micro-batches": {"heads": HEADS, "train": {**LOCKED, "microBatchSize": 4}},
    "locked, checkpointing": {"train": {**LOCKED, "activationCheckpointing": True}},
    "stored": {"heads": HEADS, "train": {**LOCKED, "features": "Stored"}},
    "projection": {"heads": HEADS, "train": {"modelConfig": {**TINY, "vision_cfg": TIMM}}},
    "projection, locked": {"heads": HEADS, "train": {"modelConfig": {**TINY, "vision_cfg": TIMM}, **LOCKED}},
    "projection, stored": {
        "heads": HEADS,
        "teacher_width": TEACHER,
        "train": {"modelConfig": {**TINY, "vision_cfg": TIMM}, **LOCKED, **EMBEDDINGS, "features": "Stored"},
    },
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    folder = tmp_path_factory.mktemp("flops")
    usual = {"train": {}, "heads": 0, "teacher_width": 0}
    cases = {
        name: {**usual, **case, "train": {"modelConfig": TINY, **case.get("train", {})}} for name, case in CASES.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    gang(PROGRAM, folder, 1, modules=fork_server.TRAINING)
    return json.loads((folder / "counted.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_operations_that_are_executed_are_those_of_a_real_step(name: str, counted: dict[str, dict[str, float]]) -> None:
    assert counted[name]["executed"] == counted[name]["step"] > 0


@pytest.mark.parametrize(
    "name", [name for name in CASES if "micro-batches" not in name and "checkpointing" not in name]
)
def test_the_meter_counts_a_real_step_but_for_the_logits_that_are_computed_again(
    name: str, counted: dict[str, dict[str, float]]
) -> None:
    widths = 32 + (32 + TEACHER if CASES[name].get("teacher_width") else 0)
    assert counted[name]["meter"] == counted[name]["step"] - 2 * BATCH**2 * widths


END = 49407
"""The end token of a caption."""
LENGTHS = (3, 5, 2, 9, 12, 4, 4, 7)
"""Tokens of the captions of a batch."""


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


def count(case: dict[str, Any]) -> dict[str, float]:
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
    found = {name: count(case) for name, case in cases.items()}
    (Path(folder) / "counted.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
