"""One planted fault for each field that names a file: `diht doctor` and `diht run` say it before anything is
computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.label import Teacher
from diht_k8s.api.layout import Layout
from diht_k8s.api.named_uris import uri_fields
from diht_k8s.api.run import Stage
from diht_k8s.cli import stage_folders as folders
from diht_k8s.cli.placement import Machine
from diht_k8s.cli.stage_folders import stage_folders
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.inspection.named_files import CHECKS, file_problems
from diht_k8s.runtime.commit import commit
from diht_k8s.stages.label.teacher_weights import weights_uri
from diht_k8s.stages.train.model.student import Student
from tests.recipe.imports.loose_pairs import drawn, jpeg
from tests.recipe.inspection.data import diht

MODEL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
LITE = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
WIDER = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "width": 128}}
NO_MODEL = "{} is not a model: give a folder with open_clip_config.json or a checkpoint file that exists"


def pairs(start: int, count: int) -> list[tuple[str, dict[str, bytes]]]:
    return [(f"k{n}", {"jpg": jpeg(n), "txt": drawn(n)[1].encode()}) for n in range(start, start + count)]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_samples(Storage(), "web/0.tar", pairs(0, 40))
    write_samples(Storage(), "held/0.tar", pairs(40, 8))
    Path("names.txt").write_text("dog\ncat\n")
    Path("list.txt").write_text("")
    save_file(Student({**MODEL, "quick_gelu": False}).clip.state_dict(), "clip.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        (
            {"data__sources__0__shards": ["wbe/*.tar"], "train__validation__shards": ["held/1.tar"]},
            ["sources[0].shards[0]: no shard matches wbe/*.tar", "validation.shards[0]: no shard matches held/1.tar"],
        ),
        ({"data__sources__0__shards": ["s3://corpus/*.tar"]}, []),
        ({"data__sources__0__shards": ["wbe/*.tar"], "pods": {"image": "recipe:1"}}, []),
    ],
    ids=["all there", "two absent", "on S3", "of a cluster"],
)
def test_validate_warns_of_shards_that_are_not_here(
    changes: dict[str, Any], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(document(**changes)))
    code, _, shown = diht(capsys, "diht validate run.yaml")
    assert code == 0
    found = [line for line in shown.splitlines() if "no shard matches" in line]
    assert len(found) == len(said)
    assert all("warning: line" in line and part in line for line, part in zip(found, said, strict=True))


def document(**changes: Any) -> dict[str, Any]:
    """A sound run that names a file in each field but a few, changed by `train__labels="x"`."""
    classes = {"name": "classes", "type": "Classification", "shards": ["held/*.tar"], "classNames": "names.txt"}
    spec: dict[str, Any] = {
        "data": {"sources": [{"name": "web", "shards": ["web/*.tar"]}], "output": "out"},
        "filter": {"minComplexity": 0, "minActions": 0, "exclude": "list.txt"},
        "train": {
            "modelConfig": MODEL,
            "samples": 160,
            "batchSize": 8,
            "distillation": {"mode": "Disabled"},
            "initFrom": {"uri": "clip.safetensors"},
            "validation": {"shards": ["held/0.tar"]},
        },
        "evaluate": {"benchmarks": [classes, {"name": "pairs", "type": "Retrieval", "shards": ["held/0.tar"]}]},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = spec
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
        if value is None:
            del target[last]
        else:
            target[last] = value
    return {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "small"}, "spec": spec}


def write(**changes: Any) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(document(**changes)))


def cut() -> None:
    content = Path("clip.safetensors").read_bytes()
    Path("gone.safetensors").write_bytes(content[:-100])


def code() -> None:
    torch.save({"a": Path("x")}, "gone.pt")


def no_names() -> None:
    Path("gone.txt").write_text("dog\n\ncat\n")


def latin() -> None:
    Path("gone.txt").write_bytes(b"\xff\xfe\xfa")


def nothing() -> None: ...


def bare_folder() -> None:
    Path("gone").mkdir()


def labels() -> None:
    commit(Storage(), Layout("out").with_folder(Stage.LABEL, "gone"), Stage.LABEL, {"inputs": {}, "config": {}}, [], {})


Plant = Callable[[], object]
SCORE = {"minScore": 0.1}
WEIGHTS = "label__teacher__weights"
TEACHER = {"label__teacher__model": "timm/test_vit", "label__topK": 1, "label__vocabulary": {"minCount": 2}}
RIDGE: dict[str, Any] = {
    "train__textStart": "Ridge",
    "train__features": "Stored",
    "train__lockImageTower": True,
    "train__initFrom__uri": "timm/tf_efficientnet_lite0",
}
FITTING = {**MODEL, "vision_cfg": LITE, "text_cfg": {**MODEL["text_cfg"], "width": 64}}
LARGER = {**MODEL, "embed_dim": 1281, "vision_cfg": LITE, "text_cfg": {**MODEL["text_cfg"], "width": 1296}}
FAULTS: dict[str, tuple[str, Plant, dict[str, Any], str]] = {
    "no shards": (
        "data.sources.shards",
        nothing,
        {"data__sources__0__shards": ["web/*.tar", "gone/*.tar"]},
        r"data.sources\[0\].shards\[1\]: no shard matches gone/\*.tar: check the path",
    ),
    "no table": (
        "data.sources.captions",
        nothing,
        {"data__sources__0__shards": None, "data__sources__0__captions": ["gone.csv"], "train": None, "evaluate": None},
        r"data.sources\[0\].captions\[0\]: no shard matches gone.csv",
    ),
    "no model of scores": (
        "filter.clipScore.model",
        nothing,
        {"filter__clipScore": {**SCORE, "model": "gone"}},
        "filter.clipScore.model: gone does not exist: give a folder with open_clip_config.json",
    ),
    "name in place of a model of scores": (
        "filter.clipScore.model",
        nothing,
        {"filter__clipScore": {**SCORE, "model": "ViT-B-32"}},
        "filter.clipScore.model: ViT-B-32 does not exist",
    ),
    "no list": (
        "filter.exclude",
        nothing,
        {"filter__exclude": "gone.txt"},
        "filter.exclude: cannot read gone.txt: it does not exist: check the path",
    ),
    "list of bytes": (
        "filter.exclude",
        latin,
        {"filter__exclude": "gone.txt"},
        "filter.exclude: gone.txt is not UTF-8 text",
    ),
    "no scores": (
        "filter.scoresFrom",
        nothing,
        {"filter__scoresFrom": "gone"},
        "filter.scoresFrom: gone does not exist: give the folder OUTPUT/filter/DIGEST",
    ),
    "no teacher's weights": (
        "label.teacher.weights",
        nothing,
        {**TEACHER, WEIGHTS: "gone.pth"},
        "label.teacher.weights: cannot read gone.pth: it does not exist",
    ),
    "another teacher's weights": (
        "label.teacher.weights",
        nothing,
        {**TEACHER, WEIGHTS: "clip.safetensors"},
        "label.teacher.weights: clip.safetensors does not fit the teacher: .* is missing",
    ),
    "size of no teacher's": (
        "label.teacher.weights",
        nothing,
        {**TEACHER, WEIGHTS: "clip.safetensors", "label__teacher__imageSize": 999},
        "label.teacher.weights: label.teacher.imageSize 999: timm/test_vit takes 160 pixels only",
    ),
    "no shards of the training": (
        "train.shards",
        nothing,
        {"train__shards": ["gone/{0..3}.tar"]},
        r"train.shards\[0\]: no shard matches gone/\{0..3\}.tar",
    ),
    "no labels": (
        "train.labels",
        bare_folder,
        {"train__labels": "gone", "train__distillation": {"mode": "Concepts"}},
        "train.labels: gone holds no finished labels: give the folder OUTPUT/label/DIGEST",
    ),
    "labels without embeddings": (
        "train.labels",
        labels,
        {"train__labels": "gone", "train__distillation": {"mode": "Disabled", "embeddings": {}}},
        "train.labels: train.distillation.embeddings: the labels in gone hold no embeddings",
    ),
    "no first weights": (
        "train.initFrom.uri",
        nothing,
        {"train__initFrom__uri": "gone.pt"},
        "train.initFrom.uri: cannot read gone.pt: it does not exist",
    ),
    "no checkpoint": (
        "train.initFrom.uri",
        bare_folder,
        {"train__initFrom": {"uri": "gone", "kind": "Checkpoint"}},
        "train.initFrom.uri: .*gone is not a committed checkpoint",
    ),
    "cut first weights": (
        "train.initFrom.uri",
        cut,
        {"train__initFrom__uri": "gone.safetensors"},
        r"train.initFrom.uri: gone.safetensors is cut: its header promises [\d,]+ bytes",
    ),
    "code for first weights": (
        "train.initFrom.uri",
        code,
        {"train__initFrom__uri": "gone.pt"},
        "train.initFrom.uri: gone.pt is damaged or no file of weights",
    ),
    "another model's first weights": (
        "train.initFrom.uri",
        nothing,
        {"train__modelConfig": WIDER},
        r"train.initFrom.uri: .*clip.safetensors is of another model: .* is \[.*\] there and \[.*\] here",
    ),
    "network of another model": (
        "train.initFrom.uri",
        nothing,
        {"train__initFrom__uri": "timm/tf_efficientnet_lite0"},
        "train.initFrom.uri: .* is of another model: this one has no ",
    ),
    "ridge of a network without a projection": (
        "train.modelConfig",
        nothing,
        RIDGE,
        "train.modelConfig: train.textStart Ridge: train.modelConfig has no linear projection behind its image tower",
    ),
    "ridge of too narrow a text tower": (
        "train.modelConfig",
        nothing,
        {**RIDGE, "train__modelConfig": {**MODEL, "vision_cfg": LITE}},
        "train.modelConfig: train.textStart Ridge: train.modelConfig has a text tower 32 wide, but embed_dim 32 "
        "needs 35",
    ),
    "ridge of more numbers than features": (
        "train.initFrom.uri",
        nothing,
        {**RIDGE, "train__modelConfig": LARGER},
        "train.initFrom.uri: train.textStart Ridge: embed_dim 1281 is more than the 1280 features",
    ),
    "words without a table": (
        "train.words",
        nothing,
        {**RIDGE, "train__modelConfig": FITTING, "train__words": "gone.txt"},
        "train.words: cannot read gone.txt: it does not exist",
    ),
    "words of a damaged table": (
        "train.words",
        lambda: Path("gone.safetensors").write_bytes(b"12345678"),
        {**RIDGE, "train__modelConfig": FITTING, "train__words": "gone.safetensors"},
        "train.words: gone.safetensors is no table of words",
    ),
    "ridge of a width that is no number": (
        "train.initFrom.uri",
        nothing,
        {
            **RIDGE,
            "train__modelConfig": {**MODEL, "vision_cfg": LITE, "text_cfg": {**MODEL["text_cfg"], "width": "wide"}},
        },
        "train.initFrom.uri: open_clip refuses the model configuration",
    ),
    "text tower without layers": (
        "train.initFrom.uri",
        nothing,
        {"train__modelConfig": {**MODEL, "text_cfg": {**MODEL["text_cfg"], "layers": 0}}},
        "train.initFrom.uri: open_clip refuses the model configuration",
    ),
    "no held-out pairs": (
        "train.validation.shards",
        nothing,
        {"train__validation": {"shards": ["gone.tar"]}},
        r"train.validation.shards\[0\]: no shard matches gone.tar",
    ),
    "no model to evaluate": (
        "evaluate.model",
        nothing,
        {"evaluate__model": "gone.safetensors"},
        "evaluate.model: " + NO_MODEL.format("gone.safetensors"),
    ),
    "misspelt model to evaluate": (
        "evaluate.model",
        nothing,
        {"evaluate__model": "ViT-B-33"},
        "evaluate.model: ViT-B-33 is neither an open_clip model nor an existing path: did you mean ViT-B-32?",
    ),
    "misspelt weights to evaluate": (
        "evaluate.model",
        nothing,
        {"evaluate__model": "ViT-B-32/opnai"},
        "evaluate.model: ViT-B-32 has no weights 'opnai': choose one of .*openai",
    ),
    "absolute path without a model": (
        "evaluate.model",
        nothing,
        {"evaluate__model": "/gone/model"},
        "evaluate.model: " + NO_MODEL.format("/gone/model"),
    ),
    "folder without a model": (
        "evaluate.model",
        bare_folder,
        {"evaluate__model": "gone"},
        "evaluate.model: " + NO_MODEL.format("gone"),
    ),
    "no benchmark": (
        "evaluate.benchmarks.shards",
        nothing,
        {"evaluate__benchmarks__1__shards": ["gone.tar"]},
        r"evaluate.benchmarks\[1\].shards\[0\]: no shard matches gone.tar",
    ),
    "no class names": (
        "evaluate.benchmarks.classNames",
        nothing,
        {"evaluate__benchmarks__0__classNames": "gone.txt"},
        r"evaluate.benchmarks\[0\].classNames: cannot read gone.txt: it does not exist",
    ),
    "empty class name": (
        "evaluate.benchmarks.classNames",
        no_names,
        {"evaluate__benchmarks__0__classNames": "gone.txt"},
        r"evaluate.benchmarks\[0\].classNames: gone.txt: classes needs one class name a line",
    ),
    "unset class names": (
        "evaluate.benchmarks.classNames",
        nothing,
        {"evaluate__benchmarks__0__classNames": None},
        r"evaluate.benchmarks\[0\].classNames: evaluate.benchmarks classes: no class names; set classNames",
    ),
    "template without a place": (
        "evaluate.benchmarks.templates",
        nothing,
        {"evaluate__benchmarks__0__templates": ["a photo"]},
        r"evaluate.benchmarks\[0\].templates: .* template 'a photo' has no {} for the text",
    ),
}


def found(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What `diht doctor` finds wrong."""
    _, out, _ = diht(capsys, "diht doctor run.yaml --json")
    return [each["says"] for each in json.loads(out)["findings"] if each["wrong"]]


def test_a_run_whose_files_are_there_and_fit_has_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert found(capsys) == []
    assert [each.note for each in stage_folders(load(Path("run.yaml").read_text(), name="run.yaml"))] == [""]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named_with_its_field_before_a_run_begins(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plant, changes, said = FAULTS[fault]
    plant()
    write(**changes)
    (sentence,) = found(capsys)
    assert re.match(rf"run.yaml: line \d+: spec\.{said}", sentence), sentence
    with pytest.raises(UserError, match=rf"^spec\.{said}"):
        stage_folders(load(Path("run.yaml").read_text(), name="run.yaml"))
    assert not Path("out").exists()


def test_every_field_that_names_a_file_has_a_planted_fault() -> None:
    tried = {
        "data.output": "`diht doctor` writes there",
        "storage.prefix": "names no file but says for which a rule is",
    }
    assert {*CHECKS, "evaluate.benchmarks.classNames"} == {*uri_fields()} - {*tried}
    assert {field for field, *_ in FAULTS.values()} >= {*CHECKS, "evaluate.benchmarks.classNames"}


def test_a_sweep_says_the_faults_of_all_variants_before_the_first_one_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write()
    code, _, problem = diht(capsys, "diht sweep run.yaml --vary train.initFrom.uri=clip.safetensors,gone.pt")
    assert (code, problem) == (
        64,
        "diht: spec.train.initFrom.uri: cannot read gone.pt: it does not exist: check the path or bucket\n",
    )
    assert not Path("out").exists()


def test_a_run_says_that_its_training_does_not_fit_on_this_machines_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "this_machine", lambda: Machine(2, 8.0, 0, "T4"))
    wide = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "layers": 1, "width": 1 << 14}}
    made = document(train__modelConfig=wide, train__initFrom=None, train__batchSize=2, train__precision="fp16")
    (filtered,) = stage_folders(load(yaml.safe_dump(made), name="run"))
    assert re.match(r"warning: the training needs [\d.]+ GiB of a T4's 15.0", filtered.note)


def test_what_only_later_stages_read_is_not_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    write(evaluate__benchmarks__1__shards=["gone.tar"], evaluate__model="gone.pt")
    run = load(Path("run.yaml").read_text(), name="run.yaml")
    assert file_problems(run.spec, Storage(), [Stage.FILTER, Stage.TRAIN]) == []
    assert [each.stage for each in stage_folders(run, Stage.TRAIN)] == ["filter"]


def test_a_benchmark_that_is_not_chosen_is_not_looked_at() -> None:
    made = document(evaluate__benchmarks__1__shards=["gone.tar"], evaluate__split="Development")
    made["spec"]["evaluate"]["benchmarks"][0]["split"] = "Development"
    run = load(yaml.safe_dump(made), name="run")
    assert file_problems(run.spec, Storage(), [Stage.EVALUATE]) == []


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_first_weights_may_be_those_that_the_label_stage_takes(form: str) -> None:
    source = weights_uri(Teacher())
    place = source if form == "legacy" else "lite.pth"
    if form == "zip":
        torch.save({"state_dict": torch.load(source, weights_only=True)}, place)
    made = document(train__modelConfig={**MODEL, "vision_cfg": LITE}, train__initFrom__uri=place)
    assert file_problems(load(yaml.safe_dump(made), name="run").spec, Storage(), [Stage.TRAIN]) == []
