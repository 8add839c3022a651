"""`train.compile`: the same curve and names of weights by compiled blocks, on one process and two, with texts of many
lengths. Slow: a compiler runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.recipe.train.small_run import VIT, Job, document, make_data, train_in_ranks

STEPS, BATCH = 6, 16
TIMM = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
DROPPING = {**VIT, "vision_cfg": {**TIMM, "timm_drop": 0.3, "timm_drop_path": 0.5, "patch_dropout": 0.25}}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
]


@pytest.mark.parametrize("world", [1, 2])
def test_curve_when_compiled_then_that_of_eager(tmp_path: Path, world: int) -> None:
    make_data(tmp_path / "data")
    settings = {
        "eager": {},
        "compiled": {"compile": True},
        "compiled, zero 1, parts": {"compile": True, "zeroStage": 1, "microBatchSize": 4},
        "dropping, eager": {"modelConfig": DROPPING},
        "dropping, eager, parts": {"modelConfig": DROPPING, "microBatchSize": 4},
        "dropping, compiled, parts": {"modelConfig": DROPPING, "compile": True, "microBatchSize": 4},
        "dropping, compiled, recomputed": {"modelConfig": DROPPING, "compile": True, "activationCheckpointing": True},
    }
    jobs = {
        name: Job(document(tmp_path / name, data=tmp_path / "data", **{"samples": STEPS * BATCH, **train}))
        for name, train in settings.items()
    }
    results = train_in_ranks(world, jobs, tmp_path / "ranks", seconds=1700)
    assert [result["error"] for result in results.values()] == [None] * len(jobs)
    for name, result in results.items():
        parts = ", parts" if name.startswith("dropping") and "parts" in name else ""  # dropout draws by micro-batch
        eager = results[f"dropping, eager{parts}" if "dropping" in name else "eager"]
        assert result["weights"].keys() == eager["weights"].keys()
        difference = (torch.tensor(result["losses"]) - torch.tensor(eager["losses"])).abs().max()
        assert difference <= 1e-5, f"{name}: {difference}"
