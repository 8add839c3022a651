"""16 bits by real ranks on the CPU: the curve of fp32, whatever is cut up; fp16's overflows left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from tests.recipe.train.small_run import Job, Table, document, lines, make_data, train_in_ranks

STEPS, OVERFLOW_STEPS, BATCH = 4, 6, 16
SMALL_SCALE, LARGE_SCALE = 2.0**12, 2.0**16
"""With the one no gradient of this model overflows, with the other those of the first steps do."""
SETTINGS: Table = {
    "zero 0": {"zeroStage": 0},
    "zero 1": {"zeroStage": 1},
    "parts, zero 0": {"zeroStage": 0, "microBatchSize": 4},
    "parts, zero 2, offload": {"zeroStage": 2, "microBatchSize": 4, "offload": "Optimizer"},
    "bf16": {"zeroStage": 2, "precision": "bf16"},
    "zero 3, ema": {"zeroStage": 3, "ema": 0.9},
}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fp16")


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    make_data(place / "data")

    def job(name: str, stop_after: int | None = None, *, scale: float = SMALL_SCALE, **train: Any) -> Job:
        run = document(place / name, data=place / "data", **{"samples": STEPS * BATCH, "precision": "fp16", **train})
        return Job(run, stop_after, fp16_scale=scale)

    jobs = {name: job(name, **train) for name, train in SETTINGS.items()}
    jobs["fp32"] = job("fp32", precision="fp32")
    overflow = {"scale": LARGE_SCALE, "samples": OVERFLOW_STEPS * BATCH}
    jobs["overflow, zero 0"] = job("overflow, zero 0", **overflow)
    jobs["overflow, zero 1"] = job("overflow, zero 1", **overflow, zeroStage=1)
    jobs["no step yet"] = job("no step yet", 1, scale=2.0**40, zeroStage=1)
    return train_in_ranks(2, jobs, place / "ranks")


@pytest.mark.parametrize("name", SETTINGS)
def test_curve_when_in_16_bits_then_near_that_of_fp32(trained: Table, name: str) -> None:
    assert trained[name]["error"] is None
    ours, reference = (torch.tensor(trained[key]["losses"]) for key in (name, "fp32"))
    torch.testing.assert_close(ours, reference, rtol=0, atol=5e-2 if name == "bf16" else 5e-3)
    assert not torch.equal(ours, reference)


@pytest.mark.parametrize("name", SETTINGS)
def test_norm_when_scaled_then_that_of_the_gradients_themselves(trained: Table, name: str) -> None:
    assert trained[name]["norms"] == pytest.approx(trained["fp32"]["norms"], rel=5e-2 if name == "bf16" else 2e-2)


@pytest.mark.parametrize("name", ["overflow, zero 0", "overflow, zero 1"])
def test_step_when_gradients_overflow_then_left_out_on_all_ranks_and_the_scale_halved(
    trained: Table, place: Path, name: str
) -> None:
    assert trained[name]["error"] is None
    left_out = [norm for norm in trained[name]["norms"] if not math.isfinite(norm)]
    assert 0 < len(left_out) < OVERFLOW_STEPS - 1
    scales = [line["loss_scale"] for line in lines(place, name)]
    assert scales[-1] == LARGE_SCALE / 2 ** len(left_out)
    assert float(trained[name]["weights"]["adam_step"]) == OVERFLOW_STEPS - len(left_out)


def test_checkpoint_when_no_step_was_made_yet_then_without_moments(trained: Table, place: Path) -> None:
    assert trained["no step yet"]["norms"] == [float("inf")]
    assert trained["no step yet"]["error"].startswith("143 stopped on request at step 1")
    saved = checkpoint.read(Storage(), f"{place}/no step yet/out/runs/latest/train/checkpoints/step-{1:09d}")
    assert not any("|exp_avg" in key for key in saved.state)
