"""What a training's start refuses about its model is said by `diht validate`, `run` and `submit` before there is a
process.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.checks import check_for_cluster, stage_problems
from diht_k8s.cli.placement import has_batch_statistics
from diht_k8s.inspection import model_checks, named_files, run_checks
from tests.recipe.inspection.data import diht

TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


def timm(name: str, **vision: Any) -> dict[str, Any]:
    vision = {"timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear", "image_size": 160, **vision}
    return {"modelConfig": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}}


NORMS = timm("test_efficientnet")
ODD = timm("test_vit", image_size=161)
WEIGHTS = {"lockImageTower": True, "initFrom": {"uri": "s3://corpus/weights.safetensors"}}


def document(**train: Any) -> str:
    spec = {
        "data": {"sources": [{"name": "web", "shards": ["s3://corpus/{0..9}.tar"]}], "output": "s3://corpus/runs/a"},
        "train": {"samples": 640, "batchSize": 18, "distillation": {"mode": "Disabled"}, **train},
    }
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}, "spec": spec}
    return json.dumps(run, indent=1)


def run_of(**train: Any) -> DihtRun:
    return load(document(**train), name="run")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a ResNet by name": (
        {"model": "RN50", "numNodes": 2, "processesPerNode": 2},
        "batchSize",
        "train.model RN50 has batch statistics (BatchNorm), which must be of equally many pairs: make "
        "train.batchSize 18 a "
        "multiple of the 4 processes, or change their number",
    ),
    "timm's, by processes": (
        {**NORMS, "processesPerNode": 4},
        "batchSize",
        "the model of train.modelConfig has batch statistics (BatchNorm), which must be of equally many pairs: make "
        "train.batchSize 18 a multiple of the 4 processes, or change their number",
    ),
    "timm's, by micro-batches": (
        {**NORMS, "processesPerNode": 2, "microBatchSize": 4},
        "microBatchSize",
        "the model of train.modelConfig has batch statistics (BatchNorm), which must be of equally many pairs: make "
        "train.microBatchSize 4 a divisor of the 9 pairs of a process",
    ),
    "a network of a hub": (
        timm("hf-hub:timm/test_vit.r160_in1k"),
        "modelConfig",
        "train.modelConfig: timm_model_name hf-hub:timm/test_vit.r160_in1k is not in timm's package: name one of "
        "`timm.list_models()`",
    ),
    "weights of a hub": (
        timm("test_vit", timm_model_pretrained=True),
        "modelConfig",
        "train.modelConfig: timm_model_pretrained would have each process download weights: remove it, and give "
        "them by "
        "train.initFrom (uri: timm/test_vit)",
    ),
    "images that do not pass": (
        ODD,
        "modelConfig",
        "the image tower takes no images of 161 x 161 pixels (Input height (161) should be divisible by patch size "
        "(16)): "
        "check image_size and the network",
    ),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a model asks nobody; those of files and data would, where an environment has credentials."""

    def asked(*where: object) -> None:
        raise AssertionError(f"asked for {where}")

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(run_checks, "check_run", lambda *_: [])
    monkeypatch.setattr(named_files, "file_problems", lambda *_: [])


@pytest.mark.parametrize("case", REFUSED)
def test_model_when_the_trainings_start_will_refuse_it_then_said_with_field_and_advice(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, field, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    text = document(**train)
    Path("run.json").write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if f'"{field}"' in each)
    code, _, said = diht(capsys, "diht validate run.json")
    assert (code, said) == (UserError.exit_code, f"run.json: line {line}: spec.train.{field}: {message}\n")
    with pytest.raises(UserError) as refused:
        check_for_cluster("run.json", run_of(**train))
    assert str(refused.value) == f"spec.train.{field}: {message}"
    found = stage_problems(run_of(**train), [Stage.TRAIN], whole=False)
    assert f"spec.train.{field}: {message}" in [str(each) for each in found]
    assert stage_problems(run_of(**train), [Stage.EVALUATE], whole=False) == []


@pytest.mark.parametrize(
    "train",
    [
        {"model": "ViT-B-32", "processesPerNode": 4},
        {"model": "RN50", "processesPerNode": 3, "microBatchSize": 6},
        {"model": "RN50", "processesPerNode": 4, **WEIGHTS},
        {**NORMS, "processesPerNode": 3, "microBatchSize": 2},
        {**NORMS, "processesPerNode": 4, **WEIGHTS},
        {**ODD, **WEIGHTS},
        timm("convnext_atto", timm_drop_path=0.1),
        timm("vit_relpos_small_patch16_224", image_size=224),
        timm("no_such_network"),
    ],
    ids=str,
)
def test_model_when_its_start_will_take_it_or_nobody_knows_then_nothing_is_said(
    train: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_text(document(**train))
    code, _, said = diht(capsys, "diht validate run.json")
    assert (code, said) == (0, "")


@pytest.mark.parametrize("train", [{"model": "ViT-B-32"}, {"model": "RN50"}, {**ODD, **WEIGHTS}], ids=str)
def test_network_when_the_text_says_enough_then_not_made(
    train: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, model_checks.__name__, None)  # type: ignore[arg-type]  # what cannot be imported
    check_for_cluster("run.json", run_of(**train))
    settings = run_of(**train).spec.train
    assert settings is not None
    assert has_batch_statistics(settings) is (train == {"model": "RN50"})


def test_network_when_torch_is_not_there_then_only_what_the_text_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, model_checks.__name__, None)  # type: ignore[arg-type]
    check_for_cluster("run.json", run_of(**ODD))
    with pytest.raises(UserError, match=r"spec\.train\.batchSize: train\.model RN50 has batch statistics"):
        check_for_cluster("run.json", run_of(model="RN50", processesPerNode=4))


def test_network_when_several_trainings_have_it_then_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(model_checks, "require_passing_images", lambda *args: made.append(args))
    model_checks._network.cache_clear()
    for samples in (640, 1280):
        check_for_cluster("run.json", run_of(samples=samples, **timm("test_vit")))
    model_checks._network.cache_clear()
    assert len(made) == 1
