"""The peak of a rank's tensors on a card is within what `diht estimate` says, and not far below it.

On CPUs, where nothing counts the tensors alone, it is the whole process that must fit into the estimate's bound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diht_k8s.stages.train.estimate.estimate import estimate
from tests.gpu.devices import devices
from tests.recipe.train.small_run import ON_DEVICES, Job, Table, document, make_data, train_in_ranks

# captions of this data fill twelve tokens
B_32: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
SMALL: dict[str, Any] = {
    **B_32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 32},
    "text_cfg": {**B_32["text_cfg"], "width": 64, "heads": 2, "layers": 2},
}
CASES: Table = {
    "bf16, zero 1": {"precision": "bf16", "zeroStage": 1},
    "fp32, zero 0, micro-batches": {"microBatchSize": 16},
    "bf16, zero 0, activation checkpointing": {"precision": "bf16", "activationCheckpointing": True},
}
PROCESS_BYTES = 3 * 2**30
"""Of a rank's program and libraries."""
LEAST = 0.6
"""Of the tensors that are predicted: below, the estimate would refuse trainings that fit."""
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@pytest.mark.parametrize("cards", ["one", pytest.param("all", marks=pytest.mark.two_gpus)])
@pytest.mark.parametrize("name", CASES)
def test_peak_when_trained_then_within_the_estimate(
    tmp_path: Path, name: str, cards: str, record_property: Any
) -> None:
    on_card = devices().kind == "cuda"
    world, pairs = (1 if cards == "one" else devices().all), (64 if on_card else 16)
    make_data(tmp_path / "data", shards=(world * pairs,))
    run = document(
        tmp_path,
        data=tmp_path / "data",
        modelConfig=B_32 if on_card else SMALL,
        samples=3 * world * pairs,
        batchSize=world * pairs,
        processesPerNode=world,
        distillation={"mode": "Disabled"},
        **CASES[name],
    )
    result = train_in_ranks(world, {"job": Job(run)}, tmp_path / "ranks", program=ON_DEVICES, **devices().variables)[
        "job"
    ]
    assert result["error"] is None, result["error"]
    bound = estimate(run, "H100")
    said = (
        f"{result['peak'] / 2**20:.0f} MiB; tensors predicted {bound.memory.total / 2**20:.0f}, bound "
        f"{bound.used / 2**20:.0f}"
    )
    record_property("peak", said)
    print(said)
    assert result["peak"] <= bound.used + (0 if on_card else PROCESS_BYTES), said
    assert result["peak"] >= LEAST * bound.memory.total or not on_card, said
