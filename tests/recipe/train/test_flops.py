"""The account of work beside real steps of the engine, whose operations torch counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.ports import free_port
from tests.recipe.train import fork_server
from tests.recipe.train.small_run import environment

PROGRAM = "tests.recipe.train.flops_rank"
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
TIMM = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
TINY = {
    "embed_dim": 32,
    "vision_cfg": VIT,
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
LOCKED = {"lockImageTower": True}
EMBEDDINGS = {"distillation": {"embeddings": {"weight": 0.5, "temperature": 0.2}}}
TOWER = {"distillation": {"headsInput": "Tower"}}
HEADS, TEACHER, BATCH = 40, 24, 8
CASES: dict[str, dict[str, Any]] = {
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
    rendezvous = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
    }
    variables = environment(**rendezvous)
    rank = fork_server.start(PROGRAM, str(folder), variables=variables, modules=fork_server.TRAINING)
    assert rank.wait(250) == 0
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
