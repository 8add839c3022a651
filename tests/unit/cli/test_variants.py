"""The product of variations, the names of its runs, what is refused, and the table that says what is shared."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from diht_k8s.api.base import LABEL_PATTERN
from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import Stage
from diht_k8s.cli.sweep import MAX_VARIANTS, Axis, Variant, axis_of, seeds_axis, table, variants_of
from tests.unit.api.documents import REMOVE, changed


def variants(*vary: str, seeds: int | None = None, overrides: tuple[str, ...] = (), **changes: Any) -> list[Variant]:
    return made(*vary, seeds=seeds, overrides=overrides, **changes)[1]


def made(
    *vary: str, seeds: int | None = None, overrides: tuple[str, ...] = (), **changes: Any
) -> tuple[list[Axis], list[Variant]]:
    text = json.dumps(changed(**changes))
    axes = [axis_of(each) for each in vary]
    if seeds is not None:
        axes.append(seeds_axis(load(text, name="run.json"), seeds))
    return axes, variants_of(text, name="run.json", overrides=overrides, axes=axes)


def names(found: list[Variant]) -> list[str]:
    return [each.run.metadata.name for each in found]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("train.loss.beta=0.25,5e-1", [0.25, 0.5]),
        ("spec.train.loss.beta=1", [1]),
        ("train.precision=fp32,bf16", ["fp32", "bf16"]),
        ("train.lockImageTower=true,no", [True, False]),
        ("train.imageSize=null,64", [None, 64]),
        ("data.sources.0.shards=[a.tar],[a.tar, b.tar]", [["a.tar"], ["a.tar", "b.tar"]]),
        ("train.loss={alpha: 1, beta: 0},{}", [{"alpha": 1, "beta": 0}, {}]),
        ('train.modelConfig={a: [1,{b: \']\'}]},{a: "},\\","}', [{"a": [1, {"b": "]"}]}, {"a": '},",'}]),
        ("train.initFrom.uri=s3://b/{1,2}.pt,'a,b'", ["s3://b/{1,2}.pt", "a,b"]),
        ("train.labels='it''s',x", ["it's", "x"]),
    ],
)
def test_values_are_those_of_set_cut_at_commas_outside_brackets_and_quotes(argument: str, values: list[Any]) -> None:
    found = axis_of(argument)
    assert list(found.values) == values
    assert found.path == argument.partition("=")[0].removeprefix("spec.")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("train.loss.beta", "--vary train.loss.beta: write PATH=V1,V2"),
        ("=1,2", "write PATH=V1,V2"),
        ("train.loss.beta=1,,2", "a value is empty: write null for none"),
        ("train.loss.beta=", "a value is empty"),
        ("train.loss.beta=0.5,5e-1", "the value 0.5 stands there twice"),
        ("train.loss={beta: 1},{ beta: 1.0 }", 'the value {"beta":1} stands there twice'),
        ("train.loss={beta: 1", "a closing } is missing"),
        ("train.loss=[[1],2", "a closing ] is missing"),
        ("train.labels='a,b", "a closing ' is missing"),
        ("train.loss={a: b: c},1", "--set train.loss={a: b: c}: line 1"),
        ("train.zeroStage=1,2", "--vary train.zeroStage: train.zeroStage changes no result"),
        ("train.checkpoint.keep=1,2", "--vary train.checkpoint.keep: train.checkpoint changes no result"),
        ("filter.textSpotting.device=CPU,CUDA", "filter.textSpotting.device changes no result"),
        ("failurePolicy.maxRestarts=1", "failurePolicy changes no result"),
        ("pods.image=a,b", "pods changes no result"),
        ("label.pods={},{image: x}", "label.pods changes no result"),
        ("data.output=a,b", "data.output changes no result"),
        ("data.maxBadShards=1,2", "data.maxBadShards changes no result"),
        ("storage.0.region=a,b", "storage changes no result"),
        ("suspend=true,false", "suspend changes no result"),
    ],
)
def test_variation_that_is_none_is_refused_by_its_argument(argument: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        axis_of(argument)
    assert says in str(raised.value)


def test_literal_values_of_pods_are_not_shown_again() -> None:
    with pytest.raises(UserError) as raised:
        axis_of("pods.env=[{name: A, value: hunter2}")
    assert "hunter2" not in str(raised.value)


def test_product_is_in_the_order_of_the_arguments_with_seeds_changing_fastest() -> None:
    found = variants("filter.minComplexity=1,2", "train.loss.beta=0.5", seeds=2)
    assert [each.values for each in found] == [
        ("1", "0.5", "0"),
        ("1", "0.5", "1"),
        ("2", "0.5", "0"),
        ("2", "0.5", "1"),
    ]
    assert names(found) == [
        "a-run-mincomplexity-1-beta-0-5-seed-0",
        "a-run-mincomplexity-1-beta-0-5-seed-1",
        "a-run-mincomplexity-2-beta-0-5-seed-0",
        "a-run-mincomplexity-2-beta-0-5-seed-1",
    ]
    spec = found[-1].run.spec
    assert spec.filter is not None
    assert spec.train is not None
    assert (spec.filter.min_complexity, spec.train.loss.beta, spec.train.seed, spec.seed) == (2, 0.5, 1, 0)
    assert {each.run.metadata.labels.sweep for each in found} == {"a-run"}


@pytest.mark.parametrize(
    ("changes", "path", "seeds"),
    [
        ({}, "train.seed", (0, 1, 2)),
        ({"spec__seed": 7}, "train.seed", (7, 8, 9)),
        ({"spec__train__seed": 4}, "train.seed", (4, 5, 6)),
        ({"spec__train": REMOVE, "spec__evaluate__model": "m", "spec__seed": 5}, "seed", (5, 6, 7)),
    ],
)
def test_seeds_begin_with_the_documents_own(changes: dict[str, Any], path: str, seeds: tuple[int, ...]) -> None:
    assert seeds_axis(load(json.dumps(changed(**changes)), name="x"), 3) == Axis(path, seeds)


def test_overrides_hold_for_all_variants_and_variations_win() -> None:
    found = variants("train.loss.beta=1,2", overrides=("train.samples=5000", "train.loss.beta=3"))
    trains = [each.run.spec.train for each in found]
    assert [(train.samples, train.loss.beta) for train in trains if train is not None] == [(5000, 1), (5000, 2)]


@pytest.mark.parametrize(
    ("vary", "changes", "expected"),
    [
        (["train.seed=0,1", "seed=3"], {}, ["a-run-train-seed-0-seed-3", "a-run-train-seed-1-seed-3"]),
        (["data.sources.0.weight=2,3"], {}, ["a-run-weight-2", "a-run-weight-3"]),
        (["data.sources.0.shards.0=a.tar,b.tar"], {}, ["a-run-shards-0-a-tar", "a-run-shards-0-b-tar"]),
        (["train.model=ViT-B-32,RN50"], {}, ["a-run-model-vit-b-32", "a-run-model-rn50"]),
        (["train.optimizer.lr=1e-3,1e-05"], {}, ["a-run-lr-0-001", "a-run-lr-1e-05"]),
    ],
)
def test_names_are_the_last_field_and_value_or_the_whole_path_where_two_end_alike(
    vary: list[str], changes: dict[str, Any], expected: list[str]
) -> None:
    assert names(variants(*vary, **changes)) == expected


@pytest.mark.parametrize(
    ("vary", "name"),
    [
        (["train.model=ViT-B-32,vit.b.32,VIT_B_32"], "a-run"),  # alike without case and punctuation
        (["data.sources.0.shards=[s3://bucket/a/long/folder/0.tar],[s3://bucket/a/long/folder/1.tar]"], "a-run"),
        (["train.loss.beta=1,2"], "n" * 40),
        (["train.loss.beta=1,2"], f"{'n' * 30}-n"),
    ],
)
def test_every_name_is_one_that_kubernetes_takes_and_no_two_are_alike(vary: list[str], name: str) -> None:
    found = names(variants(*vary, seeds=2, metadata__name=name))
    assert len(set(found)) == len(found)
    assert all(re.match(LABEL_PATTERN, each) and len(each) <= 40 for each in found)
    assert found == names(variants(*vary, seeds=2, metadata__name=name)), "the same command finds its runs again"


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        (["train.loss.beta=1,2", "train.loss.beta=3"], "--vary train.loss.beta is given twice"),
        (["train.los.beta=1"], "spec.train.los: unknown key; did you mean loss?"),
        (["train.loss.beta=1,many"], 'spec.train.loss.beta: expected a number, got "many"'),
        (["data.sources.3.weight=1"], "data.sources is a list of 1"),
        (
            ["train.loss={beta: 1},{beta: 1, alpha: 1}"],
            'train.loss={"beta":1} computes the same as train.loss={"beta":1,"alpha":1}',
        ),
        (["train.seed=null,0"], "train.seed=null computes the same as train.seed=0"),
        (["train.samples=" + ",".join(str(n) for n in range(1, MAX_VARIANTS + 2))], "257 variants: at most 256"),
    ],
)
def test_product_that_is_none_is_refused(vary: list[str], says: str) -> None:
    with pytest.raises(UserError) as raised:
        variants(*vary)
    assert says.replace('{"beta":1,"alpha":1}', '{"alpha":1,"beta":1}') in str(raised.value)


@pytest.mark.parametrize("count", [0, -1])
def test_no_seed_is_refused(count: int) -> None:
    with pytest.raises(UserError, match="give the number of seeds"):
        variants(seeds=count)


def test_table_says_what_is_shared_new_begun_and_cached() -> None:
    axes, found = made("filter.minComplexity=1,2", seeds=2)
    first, second = found[0].decided, found[1].decided
    known = {first[Stage.FILTER]: "cached", first[Stage.LABEL]: "cached", second[Stage.TRAIN]: "begun"}
    lines = table(axes, found, known)
    assert [line.split() for line in lines[:5]] == [
        ["name", "filter.minComplexity", "train.seed", "filter", "label", "train", "evaluate"],
        ["a-run-mincomplexity-1-seed-0", "1", "0", "cached", "cached", "new", "new"],
        ["a-run-mincomplexity-1-seed-1", "1", "1", "cached", "cached", "begun", "new"],
        ["a-run-mincomplexity-2-seed-0", "2", "0", "new", "new", "new", "new"],
        ["a-run-mincomplexity-2-seed-1", "2", "1", "shared", "shared", "new", "new"],
    ]
    assert lines[5:] == [
        "filter: 2 for 4 variants: 1 cached, 1 new",
        "label: 2 for 4 variants: 1 cached, 1 new",
        "train: 4 for 4 variants: 1 begun, 3 new",
        "evaluate: 4 for 4 variants: 4 new",
    ]


def test_table_without_folders_says_only_what_is_shared_and_cuts_long_values() -> None:
    axes, found = made(f"train.model={'x' * 60},z")
    lines = table(axes, found, None)
    assert lines[1].split()[1:] == [f'"{"x" * 28}...', *["computed"] * 4]
    assert lines[2].split()[2:] == ["shared", "shared", "computed", "computed"]
    assert lines[3:5] == ["filter: 1 for 2 variants", "label: 1 for 2 variants"]
