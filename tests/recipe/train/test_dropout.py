"""Dropout, stochastic depth and patch dropout with real ranks, which draw by process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import VIT, Job, document, make_data, train_in_ranks

STEPS, BATCH, STOP = 6, 16, 3
NETWORK = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
DROPPING = {**VIT, "vision_cfg": {**NETWORK, "timm_drop": 0.3, "timm_drop_path": 0.6, "patch_dropout": 0.25}}
JOBS = {
    2: {
        "whole": ("whole", None, DROPPING),
        "first half": ("moved", STOP, DROPPING),
        "second half": ("moved", None, DROPPING),
        "dropping, before": ("dropping", STOP, DROPPING),
        "plain, before": ("plain", STOP, VIT),
    },
    1: {"dropping, after": ("dropping", None, DROPPING), "plain, after": ("plain", None, VIT)},
}
"""By number of ranks: folder, last step, model."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("dropout")
    make_data(folder / "data")
    parts = {"microBatchSize": 4, "activationCheckpointing": True, "samples": STEPS * BATCH}
    results = {}
    for world, kinds in JOBS.items():
        jobs = {
            name: Job(document(folder / place, data=folder / "data", modelConfig=model, **parts), stop)
            for name, (place, stop, model) in kinds.items()
        }
        results |= train_in_ranks(world, jobs, folder / f"{world} ranks")
    return results


def test_weights_when_resumed_at_the_same_size_then_bit_equal(trained: dict[str, dict[str, Any]]) -> None:
    parts, whole = [trained["first half"], trained["second half"]], trained["whole"]
    assert [len(part["losses"]) for part in parts] == [STOP, STEPS - STOP]
    assert [loss for part in parts for loss in part["losses"]] == whole["losses"]
    assert [key for key, value in whole["weights"].items() if not torch.equal(value, parts[-1]["weights"][key])] == []


@pytest.mark.parametrize(("name", "says"), [("dropping", True), ("plain", False)])
def test_log_when_resumed_at_another_size_then_says_that_dropout_draws_otherwise(
    name: str, says: bool, trained: dict[str, dict[str, Any]]
) -> None:
    after = trained[f"{name}, after"]
    assert (after["began"], len(after["losses"])) == (STOP, STEPS - STOP)
    assert ("1 processes resume what 2 saved: dropout draws by process" in after["said"]) is says
