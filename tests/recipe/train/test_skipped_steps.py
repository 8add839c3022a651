"""A step whose loss or gradient is not finite on one of two ranks is skipped on both, and nothing of it is left."""

from __future__ import annotations

import pytest
import torch

from tests.recipe.train.small_run import Job, Table, document, make_data, train_in_ranks

STEPS, BATCH, BAD = 4, 16, 2
KINDS = {"gradient": False, "loss": True}
STAGES: Table = {
    "zero 0": {"zeroStage": 0},
    "zero 0, parts": {"zeroStage": 0, "microBatchSize": 4},
    "zero 1": {"zeroStage": 1},
    "zero 3": {"zeroStage": 3},
}
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("skipped")
    make_data(folder / "data")
    jobs = {}
    for stage, train in STAGES.items():  # the last one changes linear layers for the rest of the process
        for kind, infinite in KINDS.items():
            name = f"{kind}, {stage}"
            run = document(folder / name, data=folder / "data", samples=STEPS * BATCH, ema=0.5, **train)
            jobs[name] = Job(run, finite_steps=BAD, infinite_loss=infinite, spoilt_steps=1)
    return train_in_ranks(2, jobs, folder / "ranks")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_step_when_one_rank_is_not_finite_then_skipped_and_training_goes_on(
    trained: Table, kind: str, stage: str
) -> None:
    found = trained[f"{kind}, {stage}"]
    assert found["error"] is None
    losses = torch.tensor(found["losses"])[:, 0]
    assert losses.isfinite().tolist() == [kind == "gradient" or step != BAD for step in range(STEPS)]
    assert float(found["weights"]["adam_step"]) == STEPS - 1
    assert all(value.isfinite().all() for key, value in found["weights"].items() if "buffer" not in key)


@pytest.mark.parametrize("stage", STAGES)
def test_step_when_skipped_then_weights_and_moments_are_those_of_a_training_without_it(
    trained: Table, stage: str
) -> None:
    gradient, loss = (trained[f"{kind}, {stage}"]["weights"] for kind in KINDS)
    assert [key for key, value in gradient.items() if not torch.equal(value, loss[key])] == []
