"""`features: Stored` with real ranks: the training of a locked tower that sees whole images, without passing them
again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.models.features import encode_pixels
from diht_k8s.models.loading import load_model
from diht_k8s.stages.train.model.student import Student
from tests.folders import flat
from tests.recipe.train.small_run import LITE, VIT, Job, Table, document, make_data, train_in_ranks

SHARDS = (40, 21, 27)
STEPS, BATCH, SEEN = 8, 16, 3
"""The last of STEPS are of the second epoch; SEEN are those of trainings whose images pass the tower."""
LITES_NAME = "timm/tf_efficientnet_lite0"
SMALL_LITE = {**LITE, "vision_cfg": {**LITE["vision_cfg"], "image_size": 64}}
KINDS: Table = {
    "plain": {},
    "parts": {"microBatchSize": 4, "zeroStage": 2},
    "zero 3": {"zeroStage": 3, "ema": 0.9, "captions": "Drawn"},
    "vit": {"modelConfig": VIT},
}
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    torch.manual_seed(7)
    save_file(Student(VIT).clip.state_dict(), folder / "vit.safetensors")
    make_data(folder / "data", SHARDS)
    make_data(folder / "unusable")  # more pairs: one of a hundred may be unusable
    storage, shard = Storage(), flat(f"{folder}/unusable/made").kept("drawn-1")
    samples = [(sample.key, dict(sample.members)) for sample in read_samples(storage, shard)]
    samples[5][1]["png"] = b"no image"
    write_samples(storage, shard, samples)
    return folder


def job(
    place: Path,
    name: str,
    *,
    whole_view: bool = False,
    data: str = "data",
    output: str = "shared",
    **train: Any,
) -> Job:
    """A training that stores its features in the output that all of them share, unless it sees whole views."""
    folder = place / ("computed" if whole_view else output)
    settings = {
        "modelConfig": SMALL_LITE,
        "samples": (SEEN if whole_view else STEPS) * BATCH,
        "schedule": {"type": "Constant"},
        "lockImageTower": True,
        "initFrom": {"uri": f"{place}/vit.safetensors" if train.get("modelConfig") is VIT else LITES_NAME},
        "features": "Computed" if whole_view else "Stored",
        "order": {"window": 64},
        **train,
    }
    return Job(document(folder, data=place / data, name=name, **settings), whole_view=whole_view)


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    jobs = {name: job(place, name.replace(" ", "-"), **train) for name, train in KINDS.items()}
    jobs |= {
        f"{name}, seen": job(place, name.replace(" ", "-"), whole_view=True, **train) for name, train in KINDS.items()
    }
    jobs["workers"] = job(place, "workers", loaderWorkers=2)
    jobs["views"] = job(place, "views", featureViews=2, output="views")
    jobs["validated"] = job(
        place,
        "validated",
        validation={"shards": [f"{place}/data/made/filter/kept/drawn-0.tar"], "everySamples": 3 * BATCH},
    )
    jobs["inside"] = job(place, "inside", modelConfig=VIT, distillation={"headsInput": "Tower"})
    jobs["tower"] = job(place, "tower", distillation={"headsInput": "Tower"})
    jobs["tower, seen"] = job(place, "tower", whole_view=True, distillation={"headsInput": "Tower"})
    results = train_in_ranks(2, jobs, place / "two")
    grey = {"data": "unusable", "samples": 160, "order": {"window": 16}}
    alone = {"grey": job(place, "grey", **grey), "grey, seen": job(place, "grey", whole_view=True, **grey)}
    return results | train_in_ranks(1, alone, place / "one")


def files(place: Path, source: str = "", output: str = "shared") -> list[Path]:
    """The files of features, of one tower or of all."""
    about = (place / output / "out/features").glob("*/features.json")
    folders = [path.parent for path in about if source in ("", json.loads(path.read_text())["source"])]
    return [path for folder in sorted(folders) for path in sorted(folder.glob("*.safetensors"))]


@pytest.mark.parametrize("name", [*KINDS, "tower"])
def test_curve_when_stored_then_that_of_a_locked_tower_that_sees_whole_images(trained: Table, name: str) -> None:
    assert trained[name]["error"] is trained[f"{name}, seen"]["error"] is None
    assert trained[name]["uids"][:SEEN] == trained[f"{name}, seen"]["uids"]
    stored, seen = (torch.tensor(trained[key]["losses"][:SEEN]) for key in (name, f"{name}, seen"))
    torch.testing.assert_close(stored, seen, rtol=0, atol=1e-3)
    assert not torch.equal(stored, seen)


def test_features_when_many_trainings_share_them_then_one_file_for_each_shard_and_tower_and_no_claim(
    trained: Table, place: Path
) -> None:
    assert trained["workers"]["error"] is None
    shards = [f"drawn-{number}" for number in range(len(SHARDS))]
    assert [path.name[:7] for path in files(place, f"{place}/vit.safetensors")] == shards
    assert sorted(path.name[:7] for path in files(place, LITES_NAME)) == sorted(2 * shards)  # and of other pairs
    assert not list((place / "shared/out/features").glob("*/claims/*"))
    about = [json.loads(path.read_text()) for path in (place / "shared/out/features").glob("*/features.json")]
    assert {each["source"] for each in about} == {LITES_NAME, f"{place}/vit.safetensors"}
    assert torch.equal(torch.tensor(trained["workers"]["losses"]), torch.tensor(trained["plain"]["losses"]))


def test_views_when_stored_then_the_second_epoch_sees_crops(trained: Table, place: Path) -> None:
    plain, views = trained["plain"]["losses"], trained["views"]["losses"]
    whole = sum(SHARDS) // BATCH
    assert views[:whole] == plain[:whole]
    assert views[whole + 1 :] != plain[whole + 1 :]
    folders = (place / "views/out/features").glob("*/features.json")
    assert {json.loads(path.read_text())["preprocessing"].get("crop", 0) for path in folders} == {0, 1}


def test_image_when_it_cannot_be_used_then_a_grey_one_stands_in_and_it_is_counted_as_ever(
    trained: Table, place: Path
) -> None:
    found = [
        json.loads(next((place / output / "out/runs/grey").glob("*/train/result.json")).read_text())["summary"]["bad"]
        for output in ("shared", "computed")
    ]
    assert trained["grey"]["error"] is None
    assert found == 2 * [{"picture_unreadable": 1}]
    stored, seen = (torch.tensor(trained[name]["losses"]) for name in ("grey", "grey, seen"))
    torch.testing.assert_close(stored, seen, rtol=0, atol=3e-3)


def test_held_out_pairs_when_features_are_stored_then_they_pass_the_tower(trained: Table, place: Path) -> None:
    (metrics,) = (place / "shared/out/runs/validated").glob("*/train/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert trained["validated"]["error"] is None
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6, STEPS]


def test_heads_when_inside_a_tower_whose_embedding_alone_is_stored_then_refused(
    trained: Table,
) -> None:
    assert trained["inside"]["error"] == (
        "64 train.distillation.headsInput Tower: the heads sit inside this locked tower, of which the embedding "
        "alone is "
        "stored: set Embedding"
    )


def test_export_when_trained_on_stored_features_then_open_clip_gives_those_of_the_file_and_the_projection(
    trained: Table, place: Path
) -> None:
    (model,) = (place / "shared/out/runs/plain").glob("*/train/model")
    loaded = load_model(str(model))
    samples = list(read_samples(Storage(), flat(f"{place}/data/made").kept("drawn-0")))[:4]
    shown = encode_pixels(loaded, [loaded.transform(decode(sample.image)) for sample in samples])
    path = next(path for path in files(place, LITES_NAME) if path.name.startswith("drawn-0-"))
    stored_BW = load_file(path)["features"][:4].float()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(loaded.model.visual.head(stored_BW))
    torch.testing.assert_close(torch.from_numpy(shown), expected, rtol=0, atol=2e-3)
    assert trained["plain"]["error"] is None
