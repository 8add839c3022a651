"""The options of `spec.train` with real ranks: each does what it says and none changes the curve that must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import RESNET, Job, Table, document, lines, make_data, train_in_ranks

STEPS, BATCH = 5, 16
HELD_OUT = {"everySamples": 2 * BATCH}
NO_HEADS = {"labels": None, "distillation": {"mode": "Disabled"}}
SETTINGS: Table = {
    "plain": {},
    "offload": {"offload": "Optimizer", "zeroStage": 2},
    "offload parameters": {"offload": "Parameters", "zeroStage": 3},
    "activation checkpointing": {"activationCheckpointing": True},
    "profile": {"profileSteps": 2, "samples": 12 * BATCH},
    "embeddings alone": {"distillation": {"mode": "Disabled", "embeddings": {}}},
    "batch norm": {"modelConfig": RESNET, "zeroStage": 1, "optimizer": {"lr": 3e-4, "eps": 1e-6}},
    "no heads": NO_HEADS,
    "no heads, parts": {**NO_HEADS, "microBatchSize": 4},
}
REFUSED = {
    "compile, zero 3": ({"compile": True, "zeroStage": 3}, "64 train.compile does not go with train.zeroStage 3"),
    "few held out": (
        {"validation": {**HELD_OUT, "shards": ["few"]}},
        "65 train.validation.shards hold fewer usable pairs",
    ),
}
TRACKER = """
import os, pathlib, types

def line(**figures):
    with pathlib.Path(__file__).with_name("rank-" + os.environ["RANK"]).open("a") as file:
        print(figures["step"], figures["figures"]["train/loss"], file=file)

Settings = dict
init = lambda **_: types.SimpleNamespace(log=lambda figures, step: line(figures=figures, step=step), finish=int)
"""
"""A `wandb` that writes a file for each rank that it hears of."""
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("options")


@pytest.fixture(scope="module")
def trained(place: Path) -> Table:
    make_data(place / "data")
    make_data(place / "few", (9,))

    def job(name: str, stop_after: int | None = None, **train: Any) -> Job:
        if "validation" in train:
            few = train["validation"].get("shards")
            shards = f"{place}/{'few' if few else 'data'}/made/filter/kept/drawn-*.tar"
            train["validation"] = {**train["validation"], "shards": [shards]}
        return Job(document(place / name, data=place / "data", **{"samples": STEPS * BATCH, **train}), stop_after)

    jobs = {name: job(name, **train) for name, train in SETTINGS.items()}
    jobs |= {name: job(name, **train) for name, (train, _) in REFUSED.items()}
    start = {"uri": f"{place}/plain/out/runs/latest/train/checkpoints/step-{STEPS:09d}", "kind": "Checkpoint"}
    longer = {"initFrom": start, "samples": (STEPS + 2) * BATCH, "schedule": {"type": "Constant"}}
    jobs["resumed elsewhere"] = job("resumed elsewhere", **longer)
    jobs["nothing left"] = job("nothing left", **{**longer, "samples": STEPS * BATCH})
    jobs["other batch"] = job("other batch", **{**longer, "batchSize": 8, "zeroStage": 1})
    make_data(place / "repeated", (40,), captions=20)
    for name, mask in (("repeated", False), ("repeated, masked", True)):
        loss = {"loss": {"maskDuplicateCaptions": mask}, "samples": 3 * BATCH}
        jobs[name] = Job(document(place / name, data=place / "repeated", **loss))
    (place / "trackers").mkdir()
    (place / "trackers" / "wandb.py").write_text(TRACKER)
    path = f"{place}/trackers:{Path(__file__).parents[3]}"
    results = train_in_ranks(2, jobs, place / "ranks", PYTHONPATH=path, WANDB_PROJECT="tests")
    alone = {"batch norm, one rank": job("batch norm, one rank", **SETTINGS["batch norm"])}
    return results | train_in_ranks(1, alone, place / "alone")


@pytest.mark.parametrize("name", ["offload", "offload parameters", "activation checkpointing"])
def test_curve_when_an_option_only_saves_memory_or_looks_on_then_the_same(trained: Table, name: str) -> None:
    assert trained[name]["error"] is None
    ours, plain = (torch.tensor(trained[key]["losses"]) for key in (name, "plain"))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


def test_curve_when_micro_batches_are_trained_without_heads_then_the_same(trained: Table) -> None:
    assert trained["no heads"]["error"] is trained["no heads, parts"]["error"] is None
    parts, whole = (torch.tensor(trained[key]["losses"]) for key in ("no heads, parts", "no heads"))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_batch_norm_when_two_ranks_train_then_its_statistics_are_of_the_global_batch(
    trained: Table,
) -> None:
    one, two = trained["batch norm, one rank"], trained["batch norm"]
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=0, atol=1e-5)
    statistics = [key for key in one["weights"] if key.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 20
    for key in statistics:
        torch.testing.assert_close(two["weights"][key], one["weights"][key], rtol=1e-3, atol=1e-3)


def test_embeddings_when_distilled_without_heads_then_they_alone_are_added(trained: Table, place: Path) -> None:
    assert trained["embeddings alone"]["error"] is None
    for line in lines(place, "embeddings alone"):
        assert (line["embedding_loss"] > 0, line["object_loss"], line["attribute_loss"]) == (True, 0, 0)
        assert line["loss"] == pytest.approx(line["contrastive_loss"] + line["embedding_loss"], rel=1e-4)


def test_tracker_when_two_ranks_train_then_it_hears_each_step_from_rank_0_alone(trained: Table, place: Path) -> None:
    found = {path.name: path.read_text().split() for path in (place / "trackers").glob("rank-*")}
    assert list(found) == ["rank-0"]
    told = dict(zip(found["rank-0"][::2], found["rank-0"][1::2], strict=True))
    assert {str(line["step"]) for line in lines(place, "plain")} <= told.keys()
    assert trained["plain"]["error"] is None


@pytest.mark.parametrize("name", REFUSED)
def test_option_when_it_does_not_go_with_the_rest_then_one_line(trained: Table, name: str) -> None:
    assert trained[name]["error"] is not None
    assert trained[name]["error"].startswith(REFUSED[name][1])


def test_checkpoint_when_another_run_goes_on_from_it_then_at_its_step_with_its_moments(
    trained: Table,
) -> None:
    assert trained["resumed elsewhere"]["error"] is None
    assert len(trained["resumed elsewhere"]["losses"]) == 2
    assert float(trained["resumed elsewhere"]["weights"]["adam_step"]) == STEPS + 2
    assert trained["other batch"]["error"].startswith("64 the checkpoint ")
    assert f"another train.batchSize ({STEPS * BATCH} samples in {STEPS} steps)" in trained["other batch"]["error"]
    seen = STEPS * BATCH
    assert trained["nothing left"]["error"].endswith(f"has seen {seen} samples of train.samples {seen}: raise it")


def test_metrics_when_two_ranks_train_then_the_slowest_is_named(trained: Table, place: Path) -> None:
    last = lines(place, "plain")[-1]
    assert last["slowest_rank"] in (0, 1)
    assert last["slowest_rank_ratio"] >= 1
    assert last["loss_spikes"] == 0
    assert lines(place, "plain")[0]["bus_bandwidth_gb_per_second"] > 0


def test_duplicate_captions_when_masked_then_the_loss_is_lower_and_their_share_is_logged_either_way(
    trained: Table, place: Path
) -> None:
    plain, masked = (trained[name]["losses"][0][1] for name in ("repeated", "repeated, masked"))
    assert masked < plain - 0.01
    first, second = (lines(place, name)[0]["duplicate_caption_share"] for name in ("repeated", "repeated, masked"))
    assert first == second
    assert 0 < first < 1
    assert lines(place, "plain")[0]["duplicate_caption_share"] == 0


def test_profile_when_asked_for_then_a_trace_and_a_table_of_each_rank(trained: Table, place: Path) -> None:
    folder = place / "profile" / "out" / "runs/latest/train" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [
        "rank-00000.json.gz",
        "rank-00000.txt",
        "rank-00001.json.gz",
        "rank-00001.txt",
    ]
    assert "aten::" in (folder / "rank-00000.txt").read_text()


def test_card_when_exported_then_beside_the_model(trained: Table, place: Path) -> None:
    text = (place / "plain" / "out" / "runs/latest/train" / "model" / "README.md").read_text()
    assert f"{STEPS * BATCH:,} samples in {STEPS} steps" in text
