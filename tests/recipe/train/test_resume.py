"""Stopped and started again: the same pairs in every step, bit-equal weights at the same world size, the same curve at
another one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import RESNET, VIT, Job, document, make_data, train_in_ranks

STEPS = 12
"""The last one is of the second epoch."""
FINE = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 8}}
DROPOUT = {**FINE, "vision_cfg": {**FINE["vision_cfg"], "patch_dropout": 0.3}}
DECAYING = {"type": "WSD", "warmupSamples": 32, "decayShare": 0.75}
"""The decay begins at step 3."""
EARLY, LATE = (
    [{"imageSize": 16, "samples": 16 * steps}, {"imageSize": 32, "samples": 16 * (STEPS - steps)}] for steps in (4, 6)
)
"""Stages of the resolution that change before a training is stopped, and after it."""
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


def settings(**train: Any) -> dict[str, Any]:
    return {"samples": 16 * STEPS, "zeroStage": 1, **train}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each training whole and in pieces: the pieces of one training share an output folder."""
    folder = tmp_path_factory.mktemp("resume")
    make_data(folder / "data")

    def job(place: str, stop_after: int | None = None, **train: Any) -> Job:
        return Job(document(folder / place, data=folder / "data", **settings(**train)), stop_after)

    resnet, dropout = (
        {"modelConfig": RESNET, "captions": "Drawn"},
        {"modelConfig": DROPOUT, "microBatchSize": 4, "zeroStage": 2, "schedule": DECAYING, "stages": EARLY},
    )
    zero_3 = {"zeroStage": 3, "ema": 0.9, "modelConfig": FINE, "stages": LATE}
    first = {
        "whole": job("whole"),
        "moved 1": job("moved", 6),
        "resnet whole": job("resnet whole", **resnet),
        "resnet 1": job("resnet", 7, **resnet),
        "resnet 2": job("resnet", **resnet),
        "dropout whole": job("dropout whole", **dropout),
        "dropout 1": job("dropout", 5, **dropout),
        "dropout 2": job("dropout", **dropout),
        "dropped 1": job("dropped", 5, **dropout),
        "zero 3 whole": job("zero 3 whole", **zero_3),
        "zero 3 1": job("zero 3", 5, **zero_3),
        "zero 3 2": job("zero 3", **zero_3),
    }
    results = train_in_ranks(2, first, folder / "first")
    alone = {"moved 2": job("moved", 3, zeroStage=3), "dropped 2": job("dropped", **dropout)}
    results |= train_in_ranks(1, alone, folder / "second")
    last = {
        "moved 3": job("moved", 1, zeroStage=0),
        "moved 4": job("moved", 1, zeroStage=3),
        "moved 5": job("moved", zeroStage=1),
    }
    return results | train_in_ranks(2, last, folder / "third")


def pieces(trained: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [result for key, result in trained.items() if key.rpartition(" ")[0] == name and key[-1].isdigit()]


@pytest.mark.parametrize(
    ("whole", "name"),
    [("whole", "moved"), ("resnet whole", "resnet"), ("dropout whole", "dropout"), ("zero 3 whole", "zero 3")],
)
def test_pairs_when_resumed_then_each_step_sees_the_same(
    trained: dict[str, dict[str, Any]], whole: str, name: str
) -> None:
    parts = pieces(trained, name)
    assert all(part["error"].startswith("143 stopped on request at step") for part in parts[:-1])
    assert parts[-1]["error"] is None
    assert len(trained[whole]["uids"]) == STEPS
    assert [step for part in parts for step in part["uids"]] == trained[whole]["uids"]


@pytest.mark.parametrize("name", ["resnet", "dropout", "zero 3"])
def test_weights_when_resumed_at_the_same_size_then_bit_equal(trained: dict[str, dict[str, Any]], name: str) -> None:
    whole, last = trained[f"{name} whole"], pieces(trained, name)[-1]
    assert last["weights"].keys() == whole["weights"].keys()
    assert [key for key, value in whole["weights"].items() if not torch.equal(value, last["weights"][key])] == []


def test_curve_when_resumed_at_other_sizes_and_zero_stages_then_the_same(trained: dict[str, dict[str, Any]]) -> None:
    losses = [step for part in pieces(trained, "moved") for step in part["losses"]]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(trained["whole"]["losses"]), rtol=0, atol=1e-5)
    for key, weight in trained["whole"]["weights"].items():
        torch.testing.assert_close(pieces(trained, "moved")[-1]["weights"][key], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "says"), [("dropped 2", True), ("moved 2", False), ("dropout 2", False)])
def test_log_when_resumed_then_says_where_dropout_draws_otherwise(
    trained: dict[str, dict[str, Any]], name: str, says: bool
) -> None:
    assert ("1 processes resume what 2 saved: dropout draws by process" in trained[name]["said"]) is says
