"""Stopped and started again: each way to train goes on as an undisturbed one does.

A row is a way to train and the step before which it is stopped: what it does then is bit-equal. Over another number of
processes, or at another ZeRO stage, its curve is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.precision import LOSS_SCALE
from tests.recipe.train.small_run import (
    EFFICIENTNET,
    LITE,
    RESNET,
    VIT,
    Job,
    Table,
    document,
    make_data,
    train_in_ranks,
)

BATCH = 16
SHARDS = (40, 21, 27)
STEPS = 7
"""The last one is of the second epoch."""
FINE = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 8}}
DROPOUT = {**FINE, "vision_cfg": {**FINE["vision_cfg"], "patch_dropout": 0.3}}
DECAYING = {"type": "WSD", "warmupSamples": 16, "decayShare": 0.75}
"""The decay begins in step 2."""
EARLY, LATE = (
    [{"imageSize": 16, "samples": BATCH * steps}, {"imageSize": 32, "samples": BATCH * (STEPS - steps)}]
    for steps in (2, 4)
)
"""Stages of the resolution that change before a training is stopped, and after it."""
SMALL_LITE = {**LITE["vision_cfg"], "timm_proj_bias": True, "image_size": 64}
LOCKED = {"samples": 5 * BATCH, "lockImageTower": True, "modelConfig": EFFICIENTNET}
FROM_FILE = {**LOCKED, "initFrom": {"uri": "{place}/first.safetensors"}}
STORED = {
    "samples": 8 * BATCH,
    "schedule": {"type": "Constant"},
    "lockImageTower": True,
    "modelConfig": {**VIT, "vision_cfg": SMALL_LITE, "text_cfg": {**VIT["text_cfg"], "width": 32}},
    "initFrom": {"uri": "timm/tf_efficientnet_lite0"},
    "features": "Stored",
    "order": {"window": 64},
}
TAUGHT = {
    "textStart": "Ridge",
    "words": str(Path(__file__).parents[3] / "examples/data/words.safetensors"),
    "distillation": {"regression": {}},
    "interpolate": [0.5],
}
FP16_SCALE = 2.0**12
"""With it no gradient of this model overflows."""
DROPPING = {"modelConfig": DROPOUT, "microBatchSize": 4, "zeroStage": 2, "schedule": DECAYING, "stages": EARLY}
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet, drawn captions": ({"modelConfig": RESNET, "captions": "Drawn"}, 4),
    "dropout, parts, WSD, resolution": (DROPPING, 3),
    "fp16": ({"precision": "fp16", "samples": 4 * BATCH}, 3),
    "locked, from the seed": (LOCKED, 3),
    "stored, views, taught texts": ({**STORED, **TAUGHT, "featureViews": 2}, 4),
    "zero 3, ema, resolution": ({"zeroStage": 3, "ema": 0.9, "modelConfig": FINE, "stages": LATE}, 3),
    "locked, zero 3, ema": ({**FROM_FILE, "zeroStage": 3, "ema": 0.9}, 3),
    "stored, zero 3, ema, drawn captions": ({**STORED, "zeroStage": 3, "ema": 0.9, "captions": "Drawn"}, 4),
}
"""Those of ZeRO 3 come last: it changes linear layers for the rest of the process."""
MOVES: dict[str, tuple[dict[str, Any], list[tuple[int | None, int]]]] = {
    "plain": ({}, [(2, 1), (2, 3), (1, 0), (1, 3), (None, 1)]),
    "locked": (FROM_FILE, [(3, 1), (None, 1)]),
    "stored": (STORED, [(2, 1), (3, 1), (None, 1)]),
}
"""Steps and ZeRO stage of each attempt: of two processes the first, of one the second, of two again the others."""
pytestmark = pytest.mark.timeout(1200)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    make_data(folder / "data", SHARDS)
    torch.manual_seed(7)
    model = Student(EFFICIENTNET)
    save_file(model.clip.state_dict(), folder / "first.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    """Each training whole and in pieces."""

    def job(row: str, name: str, stop_after: int | None = None, scale: float | None = None, **train: Any) -> Job:
        settings = {"samples": BATCH * STEPS, "zeroStage": 1, **train}
        if "first" in str(settings.get("initFrom")):
            settings["initFrom"] = {"uri": f"{place}/first.safetensors"}
        if "interpolate" in settings:
            settings["validation"] = {"shards": [f"{place}/data/made/filter/kept/drawn-0.tar"]}
        run = document(place / row, data=place / "data", name=name, **settings)
        return Job(run, stop_after, fp16_scale=scale if "precision" in train else None)

    jobs: list[dict[str, Job]] = [{}, {}, {}]
    for row, (train, stop) in ROWS.items():
        jobs[0][f"{row} whole"] = job(row, "whole", scale=FP16_SCALE, **train)
        jobs[0][f"{row} 1"] = job(row, "pieces", stop, FP16_SCALE, **train)
        jobs[0][f"{row} 2"] = job(row, "pieces", scale=1.0, **train)
    jobs[0]["dropped 1"] = job("dropped", "pieces", 3, **DROPPING)
    jobs[1]["dropped 2"] = job("dropped", "pieces", **DROPPING)
    moves: list[dict[str, Job]] = [{}, {}, {}]
    for row, (train, attempts) in MOVES.items():
        moves[0][f"{row} whole"] = job(row, "whole", **train)
        for number, (stop, stage) in enumerate(attempts):
            moves[min(number, 2)][f"{row} {number + 1}"] = job(row, "pieces", stop, **{**train, "zeroStage": stage})
    results: Table = {}
    for number, world in enumerate((2, 1, 2)):
        results |= train_in_ranks(world, moves[number] | jobs[number], place / f"ranks-{number}", seconds=1100)
    return results


def pieces(trained: Table, name: str) -> list[dict[str, Any]]:
    found = [result for key, result in trained.items() if key.rpartition(" ")[0] == name and key[-1].isdigit()]
    assert all(part["error"].startswith("143 stopped on request at step") for part in found[:-1])
    assert found[-1]["error"] is None
    return found


def joined(trained: Table, name: str, what: str) -> list[Any]:
    return [step for part in pieces(trained, name) for step in part[what]]


def newest(place: Path, row: str, name: str) -> Any:
    (folder,) = (place / row / "out/runs" / name).glob("*/train")
    return checkpoint.read(Storage(), str(max((folder / "checkpoints").glob("step-*")))).state, folder / "model"


@pytest.mark.parametrize("row", ROWS)
def test_training_when_resumed_then_bit_equal_with_the_same_pairs_in_each_step(
    trained: Table, place: Path, row: str
) -> None:
    whole = trained[f"{row} whole"]
    assert whole["error"] is None
    assert joined(trained, row, "uids") == whole["uids"]
    assert joined(trained, row, "losses") == whole["losses"]
    (state, model), (expected, exported) = (newest(place, row, name) for name in ("pieces", "whole"))
    assert state.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(value, state[key])] == []
    ours, theirs = (load_file(each / "open_clip_model.safetensors") for each in (model, exported))
    assert [key for key, value in theirs.items() if not torch.equal(value, ours[key])] == []


def test_scale_of_fp16_when_resumed_then_that_of_the_checkpoint(trained: Table, place: Path) -> None:
    assert trained["fp16 2"]["error"] is None
    assert newest(place, "fp16", "pieces")[0][LOSS_SCALE].tolist() == [FP16_SCALE, 4]


@pytest.mark.parametrize("row", MOVES)
def test_curve_when_resumed_by_other_numbers_of_processes_and_at_other_zero_stages_then_the_same(
    trained: Table, row: str
) -> None:
    whole = trained[f"{row} whole"]
    assert joined(trained, row, "uids") == whole["uids"]
    ours, theirs = torch.tensor(joined(trained, row, "losses")), torch.tensor(whole["losses"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(pieces(trained, row)[-1]["weights"][key], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "says"), [("dropped 2", True), ("plain 2", False), ("dropout, parts, WSD, resolution 2", False)]
)
def test_log_when_resumed_then_says_where_dropout_draws_otherwise(trained: Table, name: str, says: bool) -> None:
    assert ("1 processes resume what 2 saved: dropout draws by process" in trained[name]["said"]) is says
