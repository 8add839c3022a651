"""`lockImageTower` with real ranks: a tower that does not move, of which checkpoints hold the digest alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_run import EFFICIENTNET, RESNET, Job, Table, document, make_data, train_in_ranks

STEPS, BATCH, STOP = 5, 16, 3
LOCKED = {"lockImageTower": True, "modelConfig": EFFICIENTNET}
KINDS: Table = {
    "zero 0": {"zeroStage": 0},
    "zero 1": {"zeroStage": 1},
    "zero 2, parts": {"zeroStage": 2, "microBatchSize": 4},
    "zero 3": {"zeroStage": 3},
    "zero 3, ema": {"zeroStage": 3, "ema": 0.9},
    "zero 2, recomputed": {"zeroStage": 2, "activationCheckpointing": True},
}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locked")
    torch.manual_seed(7)
    model = Student(EFFICIENTNET)
    for module in model.modules():  # as a network that was trained: statistics that a batch's are not
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.mul_(1.7)
    save_file(model.clip.state_dict(), folder / "first.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    make_data(place / "data")
    start = {"initFrom": {"uri": f"{place}/first.safetensors"}}

    def job(name: str, stop_after: int | None = None, **train: Any) -> Job:
        settings = {"samples": STEPS * BATCH, **LOCKED, **train}
        return Job(document(place / name, data=place / "data", **settings), stop_after)

    jobs = {name: job(name, **start, **train) for name, train in KINDS.items()}
    jobs["resnet"] = job("resnet", modelConfig=RESNET)
    steps = f"{place}/zero 0/out/runs/latest/train/checkpoints/step-{STEPS:09d}"
    longer = {"samples": (STEPS + 2) * BATCH, "schedule": {"type": "Constant"}}
    jobs["goes on"] = job("goes on", initFrom={"uri": steps, "kind": "Checkpoint"}, **longer)
    jobs["from its weights"] = job("from its weights", initFrom={"uri": steps}, samples=BATCH)
    jobs["unlocked"] = job("unlocked", initFrom={"uri": steps, "kind": "Checkpoint"}, **longer, lockImageTower=False)
    jobs["free"] = job("free", lockImageTower=False)
    free = steps.replace("zero 0", "free")
    jobs["locked later"] = job("locked later", initFrom={"uri": free, "kind": "Checkpoint"}, **longer)
    results = train_in_ranks(2, jobs, place / "first")
    alone = {"another tower 1": job("another tower", STOP, **start)}
    results |= train_in_ranks(1, alone, place / "alone")
    state = load_file(place / "first.safetensors")
    kept = place / "kept.safetensors"
    shutil.copy(place / "first.safetensors", kept)
    state["visual.trunk.conv_stem.weight"] += 1e-3
    save_file(state, place / "first.safetensors")
    results |= train_in_ranks(1, {"another tower 2": job("another tower", **start)}, place / "changed")
    kept.replace(place / "first.safetensors")
    return results


def exported(place: Path, name: str) -> dict[str, Tensor]:
    return load_file(place / name / "out/runs/latest/train/model/open_clip_model.safetensors")


def locked(place: Path, name: str, config: dict[str, Any] = EFFICIENTNET) -> Student:
    """The exported model, locked."""
    model = Student(config).eval()
    state = exported(place, name)
    model.clip.load_state_dict({**state, "logit_scale": state["logit_scale"].reshape(1)}, strict=False)
    model.lock_image_tower()
    return model


def saved(place: Path, name: str) -> checkpoint.Saved:
    """The last checkpoint."""
    return checkpoint.read(Storage(), f"{place}/{name}/out/runs/latest/train/checkpoints/step-{STEPS:09d}")


@pytest.mark.parametrize("name", KINDS)
def test_tower_when_trained_beside_then_its_weights_and_statistics_are_those_of_the_file(
    trained: Table, place: Path, name: str
) -> None:
    assert trained[name]["error"] is None
    model, first = exported(place, name), load_file(place / "first.safetensors")
    assert model.keys() == first.keys() - {"attn_mask"}
    trunk = [key for key in first if key.startswith("visual.trunk.")]
    assert sum("running_var" in key for key in trunk) > 0
    assert [key for key in trunk if not torch.equal(model[key], first[key])] == []
    assert not torch.equal(model["visual.head.proj.weight"], first["visual.head.proj.weight"])
    assert not torch.equal(model["text_projection"], first["text_projection"])


@pytest.mark.parametrize("name", [name for name in KINDS if name != "zero 0"])
def test_curve_when_placed_otherwise_then_the_same(trained: Table, name: str) -> None:
    ours, plain = (torch.tensor(trained[key]["losses"]) for key in (name, "zero 0"))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*KINDS, "resnet"])
def test_checkpoint_when_the_tower_is_locked_then_it_holds_its_digest_alone(
    trained: Table, place: Path, name: str
) -> None:
    found = saved(place, name)
    assert trained[name]["error"] is None
    assert [key for key in found.state if "visual.trunk" in key or "buffer|clip.visual" in key] == []
    visual = [key for key in found.state if "clip.visual." in key]
    assert {key.partition("|")[0] for key in visual} == (
        set() if name == "resnet" else {"clip.visual.head.proj.weight"}
    )
    assert found.cursor.tower is not None
    tower = locked(place, name, RESNET if name == "resnet" else EFFICIENTNET).locked
    assert tower is not None
    assert found.cursor.tower.sha256 == tower.sha256


def test_training_when_it_goes_on_from_a_checkpoint_then_with_the_tower_of_that_training(
    trained: Table, place: Path
) -> None:
    assert trained["goes on"]["error"] is None
    assert len(trained["goes on"]["losses"]) == 2
    marker = json.loads(
        (place / f"goes on/out/runs/latest/train/checkpoints/step-{STEPS + 2:09d}/COMMITTED.json").read_text()
    )
    tower = saved(place, "zero 0").cursor.tower
    assert tower is not None
    assert marker["tower"] == {"sha256": tower.sha256, "uri": f"{place}/first.safetensors"}
    assert trained["from its weights"]["error"] is None
    first, again = exported(place, "zero 0"), exported(place, "from its weights")
    assert torch.equal(first["visual.trunk.conv_stem.weight"], again["visual.trunk.conv_stem.weight"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "another tower 2",
            r"64 the checkpoint .*step-000000003 was trained on another image tower \(.{12}\) than "
            r".*first.safetensors gives now",
        ),
        ("unlocked", "64 the checkpoint .* has a locked image tower: set train.lockImageTower: true"),
        ("locked later", "64 the checkpoint .* has trained its image tower: remove train.lockImageTower, or take"),
    ],
)
def test_checkpoint_when_of_another_tower_then_refused_by_name(trained: Table, name: str, said: str) -> None:
    assert trained[name]["error"] is not None
    assert re.match(said, trained[name]["error"]), trained[name]["error"]
