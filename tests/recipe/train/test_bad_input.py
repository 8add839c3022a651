"""Bad input: one line that says what, where and what to do, and the right exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.train.checkpoint.tensors import load_weights
from tests.recipe.train.attempts import start_stage
from tests.recipe.train.small_run import RESNET, VIT, Job, document, environment, make_data, train_in_ranks

pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too


def stage_train(folder: Path, capsys: pytest.CaptureFixture[str], **train: Any) -> tuple[int, str]:
    """Exit code and error text of `diht stage train`."""
    file = folder / "run.json"
    file.write_text(dump(document(folder, **train)))
    code = main(["stage", "train", "--run", str(file)])
    return code, capsys.readouterr().err.strip()


BEFORE_RANKS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown model": (
        {"modelConfig": None, "model": "ViT-B-61"},
        "train.model ViT-B-61 is not known to open_clip: did you mean ViT-B-16?",
    ),
    "labels from nowhere": (
        {"labels": "elsewhere/labels"},
        "elsewhere/labels is not complete: run the stage label first",
    ),
    "labels not committed": (
        {"labels": "elsewhere/label"},
        "elsewhere/label is not complete: run the stage label first",
    ),
    "shards that match nothing": ({"shards": ["nothing/*.tar"]}, "no shard matches nothing/*.tar"),
    "first weights from nowhere": ({"initFrom": {"uri": "nothing.pt"}}, "cannot read nothing.pt: it does not exist"),
}


@pytest.mark.parametrize(("train", "message"), BEFORE_RANKS.values(), ids=BEFORE_RANKS)
def test_stage_when_the_document_is_wrong_then_one_line_and_exit_64(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], train: dict[str, Any], message: str
) -> None:
    make_data(tmp_path, (20,))
    code, error = stage_train(tmp_path, capsys, **train)
    assert code == 64
    assert error.startswith("diht: ")
    assert message in error
    assert "\n" not in error


def test_stage_when_the_output_cannot_be_written_then_exit_64(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path, (20,))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train").write_text("a file where the folder should be")
    code, error = stage_train(tmp_path, capsys)
    assert code == 64
    assert re.search(
        rf"{tmp_path}/out/train/\w{{16}}/STARTED.json: Not a directory: check rights and credentials", error
    )


def drop_vocabulary(data: Path) -> None:
    (data / "made" / "label" / "vocabulary.json").unlink()


def swap_labels(data: Path) -> None:
    labels = data / "made" / "label" / "labels"
    shutil.copy(labels / "drawn-1.parquet", labels / "drawn-0.parquet")


def labels_of_other_words(data: Path) -> None:
    file = data / "made" / "label" / "vocabulary.json"
    document = json.loads(file.read_text())
    document["objects"][0]["name"] = "another"
    file.write_text(json.dumps(document))


def spoil(data: Path, every: int) -> None:
    """Each so-manieth image of the first shard is no image."""
    storage, uri = Storage(), f"{data}/made/filter/kept/drawn-0.tar"
    samples = list(read_samples(storage, uri))
    spoilt = [
        (s.key, {**s.members, "png": b"no image"} if index % every == 0 else s.members)
        for index, s in enumerate(samples)
    ]
    write_samples(storage, uri, spoilt)


def cut_off(data: Path, share: float) -> None:
    """The first shard ends in the middle."""
    shard = data / "made" / "filter" / "kept" / "drawn-0.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * share)])


IN_RANKS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "fp16 without a GPU": (
        lambda data: None,
        {"precision": "fp16"},
        "64 train.precision fp16 needs a GPU: use bf16 or fp32",
    ),
    "micro-batches of unequal batch statistics": (
        lambda data: None,
        {"modelConfig": RESNET, "microBatchSize": 5},
        "64 the model of train.modelConfig has batch statistics (BatchNorm), which must be of equally many pairs",
    ),
    "model that open_clip refuses": (
        lambda data: None,
        {"modelConfig": {**VIT, "vision_cfg": {"layers": 1, "wide": 8}}},
        "64 open_clip refuses the model configuration: ",
    ),
    "model with parts missing": (
        lambda data: None,
        {"modelConfig": {"embed_dim": 8}},
        "64 train.modelConfig lacks vision_cfg, text_cfg",
    ),
    "fewer pairs than a batch": (
        lambda data: None,
        {"batchSize": 64},
        "65 50 pairs are fewer than train.batchSize 64: lower it or loosen the filter",
    ),
    "no vocabulary": (drop_vocabulary, {}, "64 cannot read {data}/made/label/vocabulary.json: it does not exist"),
    "vocabulary of other words": (labels_of_other_words, {}, "65 vocabulary.json was changed after it was written"),
    "labels of another shard": (
        swap_labels,
        {},
        "65 the labels of drawn-0 do not match {data}/made/filter/kept/drawn-0.tar",
    ),
    "many bad images": (
        lambda data: spoil(data, 4),
        {},
        "65 more than 1% of the pairs cannot be used (2 of 50; on this rank {{'picture_unreadable': 2}})",
    ),
    "shard that is damaged for good": (
        lambda data: cut_off(data, 0.7),
        {},
        "65 {data}/made/filter/kept/drawn-0.tar is damaged after ",
    ),
    "loss that is not finite": (
        lambda data: None,
        {"optimizer": {"lr": 1e6, "gradientClipNorm": 0}, "checkpoint": {"everySamples": 16}},
        "65 the loss or its gradient was not finite in 3 steps in a row (pairs of the last one: "
        "{folder}/out/train/{digest}/not_finite-00000.json)",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path, Path]]:
    """For each case the error, the data's folder and the run's."""
    folder = tmp_path_factory.mktemp("bad")
    jobs = {}
    for number, (name, (damage, train, _)) in enumerate(IN_RANKS.items()):
        make_data(folder / f"data-{number}", (30, 20))
        damage(folder / f"data-{number}")
        run = document(folder / f"run-{number}", data=folder / f"data-{number}", **train)
        jobs[name] = Job(run)
    results = train_in_ranks(1, jobs, folder / "ranks")
    return {
        name: (results[name]["error"], folder / f"data-{number}", folder / f"run-{number}")
        for number, name in enumerate(IN_RANKS)
    }


@pytest.mark.parametrize("name", IN_RANKS)
def test_rank_when_the_input_is_wrong_then_one_line_and_its_exit_code(
    refused: dict[str, tuple[str, Path, Path]], name: str
) -> None:
    error, data, folder = refused[name]
    assert error is not None
    assert error.startswith(IN_RANKS[name][2].format(data=data, folder=folder, digest=sha256_of({"run": "run"})[:16]))
    assert "\n" not in error


@pytest.mark.parametrize("name", [name for name in IN_RANKS if name.startswith("loss")])
def test_loss_when_not_finite_then_no_checkpoint_holds_it_and_the_pairs_are_named(
    refused: dict[str, tuple[str, Path, Path]], name: str
) -> None:
    _, _, folder = refused[name]
    left = json.loads((folder / "out" / "runs/latest/train" / "not_finite-00000.json").read_text())
    assert len(left["uids"]) == 16
    steps = sorted(path.name for path in (folder / "out" / "runs/latest/train" / "checkpoints").iterdir())
    assert steps[-1] == f"step-{left['step'] - 3:09d}"


def test_stage_when_a_rank_finds_bad_data_then_its_line_and_exit_code_come_through(tmp_path: Path) -> None:
    make_data(tmp_path, (20,))
    labels = tmp_path / "made" / "label" / "labels" / "drawn-0.parquet"
    labels.write_bytes(labels.read_bytes()[:-100])
    code, error = stage_train_process(tmp_path)
    assert code == 65
    assert error.splitlines()[-1].startswith(f"diht: {labels} is not a table of this project or is damaged")


def test_weights_when_of_another_model_then_the_first_that_differs_is_named() -> None:
    model = torch.nn.Linear(4, 3)
    with pytest.raises(DataError, match=r"is of another model: weight is \[3, 5\] there and \[3, 4\] here"):
        load_weights(model, {"weight": torch.zeros(3, 5), "bias": torch.zeros(3), "weight|exp_avg": torch.zeros(3, 5)})
    with pytest.raises(DataError, match="is of another model: bias is in one of them only"):
        load_weights(model, {"weight": torch.zeros(3, 4), "adam_step": torch.zeros(())})


def stage_train_process(folder: Path, processes: int = 1, **train: Any) -> tuple[int, str]:
    """Exit code and error text of `diht stage train` in a process of its own."""
    (folder / "run.json").write_text(dump(document(folder, **train)))
    with (folder / "errors.txt").open("w+") as errors, open(os.devnull, "w") as nowhere:
        variables = environment(DIHT_PROCESSES=str(processes))
        code = start_stage(folder, forked=True, stdout=nowhere, stderr=errors, variables=variables).wait(250)
        errors.seek(0)
        return code, errors.read()


def test_advice_on_the_batch_size_of_exit_64_ends_a_second_start_with_0(tmp_path: Path) -> None:
    make_data(tmp_path, (30, 20))
    code, error = stage_train_process(tmp_path, 3, batchSize=2)
    assert (code, "train.batchSize must be at least 2 and numNodes x processesPerNode" in error) == (64, True)
    assert stage_train_process(tmp_path, 3, batchSize=3, samples=3) == (0, "")
    assert (tmp_path / "out/runs/latest/train/COMMITTED.json").exists()


def test_second_start_in_the_same_process_is_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # the one test of this folder whose ranks are new interpreters, as outside of tests
    make_data(tmp_path, (30, 20))
    assert stage_train(tmp_path, capsys, batchSize=64, samples=64)[0] == 65
    assert stage_train(tmp_path, capsys, batchSize=16, samples=16)[0] == 0
