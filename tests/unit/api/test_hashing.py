from __future__ import annotations

import json
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.hashing import decided_by, differences, field_without_result, sha256_of, stage_config
from diht_k8s.api.run import Stage
from tests.unit.api.documents import changed


def digest(document: dict[str, Any], stage: Stage = Stage.TRAIN) -> str:
    run = load(json.dumps(document), name="test")
    return sha256_of(stage_config(run.spec, stage, {"filter": "x"}, {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"spec__train__numNodes": 2},
        {"spec__train__numNodes": 2, "spec__train__minNodes": 1},
        {"spec__failurePolicy": {"elasticAfterSeconds": 10}},
        {"spec__train__processesPerNode": 2},
        {"spec__train__microBatchSize": 4},
        {"spec__train__zeroStage": 3},
        {"spec__train__checkpoint": {"keep": 9}},
        {"spec__train__loaderWorkers": 3},
        {"spec__train__pods": {"image": "x"}},
        {"spec__pods": {"image": "x"}},
        {"spec__storage": [{"prefix": "s3://corpus", "region": "eu-1"}]},
        {"spec__activeDeadlineSeconds": 5},
        {"spec__suspend": True},
        {"spec__train__optimizer": {"lr": 5.0e-4}},
        {"spec__filter": {"minActions": 0}},
    ],
)
def test_hash_of_a_stage_is_the_same_when_placement_defaults_or_other_stages_change(changes: dict[str, Any]) -> None:
    assert digest(changed(**changes)) == digest(changed())


@pytest.mark.parametrize(
    "changes",
    [
        {"spec__seed": 1},
        {"spec__train__samples": 1001},
        {"spec__train__optimizer": {"lr": 1.0e-4}},
        {"spec__train__loss": {"beta": 0}},
        {"spec__train__precision": "fp32"},
    ],
)
def test_hash_of_a_stage_changes_with_what_changes_its_result(changes: dict[str, Any]) -> None:
    assert digest(changed(**changes)) != digest(changed())


def test_filter_hash_ignores_workers_device_and_bad_limit_but_not_thresholds() -> None:
    plain = digest(changed(), Stage.FILTER)
    assert digest(changed(spec__filter={"textSpotting": {"device": "CUDA"}}), Stage.FILTER) == plain
    assert digest(changed(spec__filter={"textSpotting": {"mode": "ScoreOnly"}}), Stage.FILTER) != plain
    assert digest(changed(spec__filter={"textSpotting": {"precision": "FP32"}}), Stage.FILTER) != plain
    assert digest(changed(spec__filter={"workers": 9, "maxBadPercent": 5}), Stage.FILTER) == plain
    assert digest(changed(spec__filter={"minComplexity": 2}), Stage.FILTER) != plain
    scored, stricter = ({"clipScore": {"model": "m.pt", "minScore": low}} for low in (0.2, 0.3))
    assert digest(changed(spec__filter=scored), Stage.FILTER) != plain
    assert digest(changed(spec__filter=scored), Stage.FILTER) != digest(changed(spec__filter=stricter), Stage.FILTER)


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"spec__seed": 1}, {Stage.LABEL, Stage.TRAIN, Stage.EVALUATE}),
        ({"spec__train__seed": 1}, {Stage.TRAIN}),
        ({"spec__train__seed": 0}, set()),
        ({"spec__seed": 1, "spec__train__seed": 0}, {Stage.LABEL, Stage.EVALUATE}),
    ],
    ids=["the run's", "the training's", "the same twice", "both"],
)
def test_seed_decides_only_the_stages_that_draw_by_it(changes: dict[str, Any], other: set[Stage]) -> None:
    assert {stage for stage in Stage if digest(changed(**changes), stage) != digest(changed(), stage)} == other


def test_differences_of_long_values_show_what_differs() -> None:
    one, other = ([{"name": "web", "shards": [f"/data/a/long/way/down/to/the/shards/of/{run}/*.tar"]}] for run in "ab")
    assert differences({"sources": one}, {"sources": other}) == [
        'sources: ...e/shards/of/a/*.tar"]}] -> ...e/shards/of/b/*.tar"]}]'
    ]
    (line,) = differences({"x": "a" * 100}, {"x": "b" * 100})
    assert line == f'x: "{"a" * 44}... -> "{"b" * 44}...'


def test_differences_name_the_fields() -> None:
    before = {"config": {"optimizer": {"lr": 0.1}, "samples": 5}, "seed": 0}
    after = {"config": {"samples": 6, "ema": 0.9}, "seed": 0.0}
    assert differences(before, after) == [
        "config.ema: (default) -> 0.9",
        'config.optimizer: {"lr":0.1} -> (default)',
        "config.samples: 5 -> 6",
    ]


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, ""),
        ({"spec__train__zeroStage": 3, "spec__pods": {"image": "x"}, "spec__data__output": "elsewhere"}, ""),
        ({"spec__data__sources__0__shards": ["b.tar"]}, "filter label train evaluate"),
        ({"spec__data__sources__0__weight": 2.0}, "train evaluate"),
        ({"spec__filter__minComplexity": 3}, "filter label train evaluate"),
        ({"spec__label__heads": {"kind": "Sigmoid"}}, "label train evaluate"),
        ({"spec__seed": 1}, "label train evaluate"),
        ({"spec__train__seed": 1}, "train evaluate"),
        ({"spec__evaluate__decode": "Reference"}, "evaluate"),
        ({"spec__train__labels": "x/label/1"}, "train evaluate"),
        ({"spec__label__teacher": {"model": "open_clip/ViT-B-32", "textEmbeddings": True}}, "label train evaluate"),
    ],
)
def test_change_decides_its_stage_and_those_that_read_it(changes: dict[str, Any], stages: str) -> None:
    before, after = (load(json.dumps(changed(**each)), name="test").spec for each in ({}, changes))
    assert [stage for stage in Stage if decided_by(before, stage) != decided_by(after, stage)] == stages.split()


@pytest.mark.parametrize(
    ("given", "changes", "stages"),
    [
        ({"spec__train__shards": ["c.tar"]}, {"spec__filter__minComplexity": 3}, "filter label train evaluate"),
        (
            {"spec__train__shards": ["c.tar"], "spec__train__labels": "l"},
            {"spec__label__heads": {"kind": "Sigmoid"}},
            "label evaluate",
        ),
        (
            {"spec__train__shards": ["c.tar"], "spec__train__labels": "l"},
            {"spec__filter__minComplexity": 3},
            "filter label evaluate",
        ),
        (
            {"spec__train__distillation": {"mode": "Disabled"}},
            {"spec__label__heads": {"kind": "Sigmoid"}},
            "label evaluate",
        ),
        (
            {
                "spec__train__distillation": {"mode": "Disabled", "embeddings": {}},
                "spec__label__teacher": {"model": "open_clip/ViT-B-32", "textEmbeddings": True},
            },
            {"spec__label__heads": {"kind": "Sigmoid"}},
            "label train evaluate",
        ),
        ({"spec__evaluate__model": "m"}, {"spec__train__samples": 9}, "train"),
        (
            {"spec__filter__decontaminate": ["flickr30k"]},
            {"spec__evaluate__benchmarks__0__shards": ["g.tar"]},
            "filter label train evaluate",
        ),
        ({}, {"spec__evaluate__benchmarks__0__shards": ["g.tar"]}, "evaluate"),
    ],
)
def test_change_does_not_reach_a_stage_that_reads_something_else(
    given: dict[str, Any], changes: dict[str, Any], stages: str
) -> None:
    before, after = (load(json.dumps(changed(**{**given, **each})), name="test").spec for each in ({}, changes))
    assert [stage for stage in Stage if decided_by(before, stage) != decided_by(after, stage)] == stages.split()


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("train.loss.beta", None),
        ("data.sources.0.weight", None),
        ("seed", None),
        ("unknown.field", None),
        ("train.unknown", None),
        ("train.modelConfig.width", None),
        ("train.checkpoint.keep", "train.checkpoint"),
        ("filter.textSpotting.device", "filter.textSpotting.device"),
        ("storage.0.region", "storage"),
        ("data.output", "data.output"),
    ],
)
def test_field_without_result_is_named(path: str, field: str | None) -> None:
    assert field_without_result(path.split(".")) == field
