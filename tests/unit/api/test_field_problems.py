"""What the text of a document names and nobody knows is said for each field, all at once; every sample names nothing
such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from diht_k8s.api import field_problems
from diht_k8s.api.documents import load, model_in
from diht_k8s.api.errors import UserError
from diht_k8s.api.field_problems import refuse, text_problems, unknown_name
from diht_k8s.api.named_uris import has_pods, named_uris, path_problems, uri_fields
from diht_k8s.api.run import DihtRun, Spec
from tests.unit.api.documents import REMOVE, changed

ROOT = Path(__file__).parents[3]
SAMPLES = [*sorted((ROOT / "manifests/samples").glob("*.yaml")), *sorted((ROOT / "examples").rglob("*.yaml"))]
DATA: dict[str, Any] = {
    "spec__pods": {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
}
RESNET = {"embed_dim": 16, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8}, "text_cfg": {}}
SCORE: dict[str, Any] = {"model": "s3://corpus/clip", "minScore": 0.2}


def spec_of(**changes: Any) -> Spec:
    return DihtRun.model_validate(changed(**changes)).spec


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "train.model": (
        {"spec__train__model": "ViT-B-33"},
        "spec.train.model: ViT-B-33 is not known to open_clip VERSION: did you mean ViT-B-32? (a model of your own is "
        "train.modelConfig)",
    ),
    "train.model with another text tower": (
        {"spec__train__model": "roberta-ViT-B-32"},
        "spec.train.model: roberta-ViT-B-32 has the text tower roberta-base: the training has CLIP's text tower and "
        "tokenizer only, choose such a model",
    ),
    "train.initFrom of no package": (
        {"spec__train__initFrom": {"uri": "timm/resnet50"}},
        "spec.train.initFrom.uri: no package brings the weights of timm/resnet50: give a .safetensors or .pth "
        "file, or take "
        "one of timm/tf_efficientnet_lite0, timm/tf_efficientnet_lite1, timm/tf_efficientnet_lite2",
    ),
    "train.model with batch statistics": (
        {"spec__train__model": "RN50", "spec__train__numNodes": 3},
        "spec.train.batchSize: train.model RN50 has batch statistics (BatchNorm), which must be of equally many "
        "pairs: make "
        "train.batchSize 8 a multiple of the 3 processes, or change their number",
    ),
    "train.modelConfig with batch statistics": (
        {"spec__train__model": REMOVE, "spec__train__modelConfig": RESNET, "spec__train__microBatchSize": 3},
        "spec.train.microBatchSize: the model of train.modelConfig has batch statistics (BatchNorm), which must "
        "be of equally "
        "many pairs: make train.microBatchSize 3 a divisor of the 8 pairs of a process",
    ),
    "label.teacher.model, timm's": (
        {"spec__label": {"teacher": {"model": "timm/resnet5O", "weights": "s3://corpus/w.pth"}}},
        "spec.label.teacher.model: resnet5O is not known to timm VERSION: did you mean resnet50?",
    ),
    "label.teacher.model, open_clip's": (
        {"spec__label": {"teacher": {"model": "open_clip/ViT-H-41", "weights": "s3://corpus/w.pth"}}},
        "spec.label.teacher.model: ViT-H-41 is not known to open_clip VERSION: did you mean ViT-H-16?",
    ),
    "label.teacher.model, SWAG's": (
        {"spec__label": {"teacher": {"model": "swag/vit_h15", "weights": "s3://corpus/w.pth"}}},
        "spec.label.teacher.model: vit_h15 is not known to swag (there are vit_b16, vit_l16, vit_h14, regnety_16gf, "
        "regnety_32gf, regnety_128gf): did you mean vit_h14?",
    ),
    "label.teacher.model without its library": (
        {"spec__label": {"teacher": {"model": "resnet50"}}},
        "spec.label.teacher.model: resnet50 is unknown: write open_clip/NAME, timm/NAME, swag/NAME, did you mean "
        "timm/resnet50?",
    ),
    "label.teacher.textEmbeddings of another tokenizer": (
        {
            "spec__label": {
                "teacher": {
                    "model": "open_clip/ViT-B-16-SigLIP",
                    "weights": "s3://corpus/w.pth",
                    "textEmbeddings": True,
                }
            }
        },
        "spec.label.teacher.textEmbeddings: ViT-B-16-SigLIP needs the tokenizer timm/ViT-B-16-SigLIP: captions "
        "are read by "
        "CLIP's tokenizer only, choose such a teacher",
    ),
    "label.teacher.weights": (
        {"spec__label": {"teacher": {"model": "timm/resnet50"}}},
        "spec.label.teacher.weights: is not set, and no package brings the weights of timm/resnet50: name a "
        ".safetensors "
        "or .pth file, or take one of timm/tf_efficientnet_lite0, timm/tf_efficientnet_lite1, "
        "timm/tf_efficientnet_lite2",
    ),
    "filter.clipScore.architecture": (
        {"spec__filter": {"clipScore": {**SCORE, "architecture": "ViT-B-33"}}},
        "spec.filter.clipScore.architecture: ViT-B-33 is not known to open_clip VERSION: did you mean ViT-B-32?",
    ),
    "filter.decontaminate": (
        {"spec__filter": {"decontaminate": ["flickr3k"]}},
        "spec.filter.decontaminate[0]: no benchmark is called flickr3k (there are: flickr30k): did you mean flickr30k?",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_name_that_nobody_knows_is_said_with_the_nearest(case: str) -> None:
    changes, said = UNKNOWN[case]
    found = [str(problem) for problem in text_problems(spec_of(**changes)) if problem.certain]
    assert [re.sub(r"(?<= )\d+\.\d+\.\d+(?=: did)", "VERSION", problem) for problem in found] == [said]


RN50 = {"spec__train__model": "RN50", "spec__train__batchSize": 8}
TIMM_TOWER = {"embed_dim": 16, "vision_cfg": {"timm_model_name": "resnet18", "image_size": 32}, "text_cfg": {}}
WHY = "may have batch statistics (BatchNorm), which must be of equally many pairs, and"


def nodes(wished: int, least: int | None, **train: Any) -> dict[str, Any]:
    shape = {"numNodes": wished, "minNodes": least, **train}
    return {f"spec__train__{name}": value for name, value in shape.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            RN50 | nodes(4, 3),
            f"has no effect, the training waits for all 4 nodes: train.model RN50 {WHY} the processes of 3 nodes "
            "do not divide train.batchSize: lower it to 2, or change train.batchSize",
        ),
        (
            RN50 | nodes(8, 5),
            f"has no effect, the training waits for all 8 nodes: train.model RN50 {WHY} the processes of 5 to 7 "
            "nodes do not divide train.batchSize: lower it to 4, or change train.batchSize",
        ),
        (
            RN50 | nodes(2, 1, microBatchSize=3, batchSize=4),
            f"has no effect, the training waits for all 2 nodes: train.model RN50 {WHY} the processes of 1 node "
            "do not divide train.batchSize and train.microBatchSize: lower numNodes, or change train.batchSize and "
            "train.microBatchSize",
        ),
        (
            {"spec__train__model": REMOVE, "spec__train__modelConfig": TIMM_TOWER} | nodes(4, 3, batchSize=8),
            f"has no effect, the training waits for all 4 nodes: the model of train.modelConfig {WHY} the "
            "processes of 3 nodes do not divide train.batchSize: lower it to 2, or change train.batchSize",
        ),
        (RN50 | nodes(4, 2), None),
        (RN50 | nodes(4, None), None),
        (RN50 | nodes(4, 4), None),
        (RN50 | nodes(4, 3, lockImageTower=True), None),
        (nodes(4, 3, batchSize=8), None),
        (
            {"spec__train__model": REMOVE, "spec__train__modelConfig": RESNET | {"vision_cfg": {"layers": 2}}}
            | nodes(4, 3, batchSize=8),
            None,
        ),
    ],
    ids=[
        "one number",
        "several",
        "micro-batches",
        "a tower of timm",
        "a number that divides",
        "rigid",
        "as many as wished for",
        "a locked tower",
        "a ViT",
        "a ViT of its own",
    ],
)
def test_min_nodes_that_the_batch_leaves_without_effect_is_a_warning(changes: dict[str, Any], said: str | None) -> None:
    found = [(str(problem), problem.certain) for problem in text_problems(spec_of(**changes))]
    assert found == ([] if said is None else [(f"spec.train.minNodes: {said}", False)])


CARDS = {"resources": {"nvidia.com/gpu": 8}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"spec__pods": CARDS},
            ("is 1 where a pod asks for nvidia.com/gpu: 8, 7 stay idle: write train.processesPerNode: 8", False),
        ),
        (
            {
                "spec__train__pods": {"resources": {"nvidia.com/gpu": "2"}},
                "spec__pods": CARDS,
                "spec__train__processesPerNode": 4,
            },
            ("is 4 where a pod asks for nvidia.com/gpu: 2, each rank needs one: write train.processesPerNode: 2", True),
        ),
        ({"spec__train__pods": CARDS, "spec__train__processesPerNode": 8}, None),
        ({"spec__filter": {"pods": CARDS}}, None),
        ({"spec__pods": CARDS, "spec__train__pods": {"resources": {"nvidia.com/gpu": 0}}}, None),
        ({"spec__pods": CARDS, "spec__train": REMOVE, "spec__evaluate": REMOVE}, None),
    ],
    ids=["idle cards", "too few, train's own number", "as many", "another stage's", "none for train", "no training"],
)
def test_ranks_and_gpus_of_a_pod_that_differ_are_said(changes: dict[str, Any], said: tuple[str, bool] | None) -> None:
    found = [(str(problem), problem.certain) for problem in text_problems(spec_of(**changes))]
    assert found == ([] if said is None else [(f"spec.train.processesPerNode: {said[0]}", said[1])])


def test_all_problems_are_said_at_once() -> None:
    spec = spec_of(
        spec__train__model="ViT-B-33",
        spec__label={"teacher": {"model": "timm/resnet5O"}},
        spec__filter={"decontaminate": ["a", "b"]},
    )
    with pytest.raises(UserError) as refused:
        refuse(text_problems(spec))
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "spec.filter.decontaminate[0]",
        "spec.filter.decontaminate[1]",
        "spec.label.teacher.model",
        "spec.train.model",
    ]


def test_a_name_is_doubtful_only_where_another_version_of_its_package_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(field_problems.metadata, "version", lambda package: "99.0")
    (problem,) = text_problems(spec_of(spec__train__model="ViT-B-33"))
    assert not problem.certain
    refuse([problem])


@pytest.mark.parametrize("name", ["resnet50", "resnet50.a1_in1k", "ssl_resnet50"])
def test_timms_tags_and_former_names_are_known(name: str) -> None:
    assert unknown_name("timm", name) is None


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_and_examples_name_what_there_is(path: Path) -> None:
    spec = load(path.read_text(), name=path.name).spec
    assert text_problems(spec) == []
    assert not has_pods(spec) or path_problems(spec) == []


RELATIVE = "is a relative path, which means nothing in a pod"
NO_MOUNT = "lies below no volumeMounts.mountPath of the pods of"
PATHS: dict[str, tuple[str, Any, str]] = {
    "data.output": ("spec__data__output", "{}", "output"),
    "data.sources.shards": ("spec__data__sources__0__shards", ["{}/*.tar"], "sources[0].shards[0]"),
    "data.sources.captions": (
        "spec__data__sources",
        [{"name": "a", "captions": ["{}/0.parquet"]}],
        "sources[0].captions[0]",
    ),
    "filter.exclude": ("spec__filter__exclude", "{}", "exclude"),
    "filter.scoresFrom": ("spec__filter__scoresFrom", "{}", "scoresFrom"),
    "filter.clipScore.model": ("spec__filter__clipScore", {**SCORE, "model": "{}"}, "clipScore.model"),
    "label.teacher.weights": ("spec__label__teacher__weights", "{}", "teacher.weights"),
    "train.shards": ("spec__train__shards", ["{}/{0..3}.tar"], "shards[0]"),
    "train.labels": ("spec__train__labels", "{}", "labels"),
    "train.initFrom.uri": ("spec__train__initFrom", {"uri": "{}"}, "initFrom.uri"),
    "train.words": ("spec__train__words", "{}", "words"),
    "train.validation.shards": ("spec__train__validation", {"shards": ["{}/0.tar"]}, "validation.shards[0]"),
    "evaluate.model": ("spec__evaluate__model", "{}", "model"),
    "evaluate.benchmarks.shards": ("spec__evaluate__benchmarks__0__shards", ["{}/0.tar"], "benchmarks[0].shards[0]"),
    "evaluate.benchmarks.classNames": ("spec__evaluate__benchmarks__0__classNames", "{}", "benchmarks[0].classNames"),
}


def filled(value: Any, place: str) -> Any:
    if isinstance(value, str):
        return value.replace("{}", place)
    if isinstance(value, list):
        return [filled(item, place) for item in value]
    return {key: filled(item, place) for key, item in value.items()} if isinstance(value, dict) else value


def with_path(field: str, place: str) -> Spec:
    path, value, _ = PATHS[field]
    only = {f"spec__{stage}": None for stage in ("label", "train", "evaluate")} if field.endswith("captions") else {}
    started = {"textStart": "Ridge", "features": "Stored", "lockImageTower": True} if field == "train.words" else {}
    more = {f"spec__train__{name}": setting for name, setting in started.items()}
    return spec_of(**DATA, **only, **more, **{path: filled(value, place)})


@pytest.mark.parametrize("field", PATHS)
@pytest.mark.parametrize(
    ("place", "said"),
    [("files/a", RELATIVE), ("~/a", RELATIVE), ("/scratch/a", NO_MOUNT), ("file:///database", NO_MOUNT)],
)
def test_a_path_that_pods_do_not_have_is_said(field: str, place: str, said: str) -> None:
    (problem,) = path_problems(with_path(field, place))
    assert str(problem).startswith(f"spec.{field.split('.')[0]}.")
    assert f"{PATHS[field][2]}: " in str(problem)
    assert said in problem.message


@pytest.mark.parametrize("field", PATHS)
@pytest.mark.parametrize("place", ["/data/a", "file:///data/a", "s3://corpus/a"])
def test_a_path_below_a_mount_is_sound(field: str, place: str) -> None:
    assert path_problems(with_path(field, place)) == []


def test_an_image_may_bring_single_files_and_models() -> None:
    doubtful = [field for field in PATHS if not path_problems(with_path(field, "/opt/a"))[0].certain]
    assert doubtful == [
        "filter.exclude",
        "filter.clipScore.model",
        "label.teacher.weights",
        "train.initFrom.uri",
        "train.words",
        "evaluate.model",
        "evaluate.benchmarks.classNames",
    ]


def test_a_stages_own_mounts_count_for_its_fields_alone() -> None:
    spec = spec_of(
        spec__train__pods=DATA["spec__pods"], spec__train__shards=["/data/0.tar"], spec__data__output="/data/o"
    )
    (problem,) = path_problems(spec)
    assert problem.message.startswith(f"/data/o {NO_MOUNT} filter, label, evaluate: ")


@pytest.mark.parametrize(
    ("name", "says"), [("ViT-B-32", None), ("ViT-B-32/openai", None), ("ViT-B-33", "did you mean ViT-B-32?")]
)
def test_an_open_clip_name_is_no_path(name: str, says: str | None) -> None:
    found = path_problems(spec_of(spec__evaluate__model=name))
    assert [problem.message.rpartition(": ")[2] for problem in found] == ([] if says is None else [says])


def test_a_network_that_a_package_brings_is_no_path() -> None:
    assert path_problems(spec_of(spec__train__initFrom={"uri": "timm/tf_efficientnet_lite0"})) == []
    (problem,) = path_problems(spec_of(spec__train__initFrom={"uri": "timm/lite0.pth"}))
    assert RELATIVE in problem.message


def test_every_field_of_the_type_uri_is_found_and_has_a_planted_path() -> None:
    assert set(uri_fields()) == {*PATHS, "storage.prefix"}
    for field in PATHS:
        assert field in [each.field for each in named_uris(with_path(field, "/data/a"))]


NAMES = {
    "train.model",
    "label.teacher.model",
    "filter.clipScore.architecture",
    "filter.decontaminate",
}
"""Texts that name a model or a benchmark: a case of `UNKNOWN` each."""
OTHERS: Mapping[str, str] = {
    "data.maxBadShards": "a number",
    "data.sources.name": "the run's own",
    "data.sources.imageKey": "members of shards: `diht doctor` reads some, and the filter counts what lacks them",
    "data.sources.captionKey": "members of shards, or a column: `diht doctor` reads some",
    "filter.metadataLimits.name": "pairs without the number pass",
    "filter.junkField": "pairs without the field are wanted; the page says where no pair has it",
    "label.vocabulary.exclude": "a name that no caption has excludes nothing",
    "storage.endpointURL": "the first listing says it: `diht doctor`, `diht run`",
    "storage.region": "the first listing says it",
    "managedBy": "another controller that nobody runs leaves the run without a status",
    "storage.secretRef.name": "the kubelet says it, and the operator as a run's reason",
    "train.modelConfig": "open_clip refuses it: the estimate, `diht doctor` where weights are given",
    "evaluate.benchmarks.name": "the run's own; decides class names that packages bring, which the checks look for",
    "evaluate.benchmarks.templates": "placeholders are checked beside class names",
}
"""Other texts that a document holds, and why their names need no check of the text."""


def texts(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """The fields that hold a text of any form, but pods' (Kubernetes and the operator say what is wrong with them)."""
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        if path.split(".")[-1] == "pods":
            continue
        if (inside := model_in(field.annotation)) is not None:
            yield from texts(inside, f"{path}.")
        elif holds_text(field.annotation):
            yield path


def holds_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return False
    return annotation in (str, Any) or any(map(holds_text, get_args(annotation)))


def test_every_text_of_a_document_is_a_place_a_checked_name_or_reviewed() -> None:
    assert {*texts(Spec)} - {*uri_fields()} == {*NAMES, *OTHERS}
    assert all(any(case.startswith(name) for case in UNKNOWN) for name in NAMES)
