"""`diht init`: the defaults that it chooses, and the document that it writes, from facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.onboarding.init import run_name
from diht_k8s.cli.onboarding.run_template import SMALL_POOL, Hardware, RunNames, choose_defaults, render_document
from diht_k8s.cli.placement import Machine
from diht_k8s.inspection.dataset_profile import DatasetProfile, HeldOut, ProfiledPair, choose_groups, duplicate_groups
from diht_k8s.stages.filter.scores import Row

NAMES = RunNames("mine", ["data/*.tar"], "runs/mine", "runs/mine-held-out")
LAPTOP = Machine(4, 16.0)


def profiled(
    number: int, *, actions: int = 1, complexity: int = 2, caption: str = "", concepts: int = 12
) -> ProfiledPair:
    row = Row(
        shard="",
        index=str(number),
        uid=f"u{number}",
        caption_sha256="",
        complexity=complexity,
        num_actions=actions,
        objects=[f"thing{number % concepts}", f"place{number % 7}"] if concepts else [],
        attributes=[("thing", f"colour{number % concepts}")] if concepts else [],
    )
    return ProfiledPair(0, number, f"u{number}", f"image{number}", row, caption or f"a thing {number} moves")


def profile(count: int, *, total: int | None = None, bad: int = 0, **facts: object) -> DatasetProfile:
    found = [profiled(number, **facts) for number in range(count)]  # type: ignore[arg-type]
    problems = {"picture_unreadable": bad} if bad else {}
    return DatasetProfile(
        ["data/0.tar"], total or count + bad, total is None, count + bad, found, problems, [(640, 480)] * count
    )


def held(of: DatasetProfile, *, near: float = 0.0) -> HeldOut:
    pairs, excluded = choose_groups(of, 0)
    return HeldOut(pairs, excluded, near)


def written(
    of: DatasetProfile, hardware: Hardware = "laptop", *, machine: Machine = LAPTOP, near: float = 0.0
) -> DihtRun:
    split = held(of, near=near)
    text = render_document(NAMES, of, split, machine, choose_defaults(of, split, machine, hardware))
    return load(text, name="run.yaml")


@pytest.mark.parametrize("hardware", get_args(Hardware))
@pytest.mark.parametrize("count", [30, 300, 5000])
@pytest.mark.parametrize("facts", [{}, {"actions": 0}, {"concepts": 10_000}, {"actions": 0, "complexity": 0}])
def test_document_is_valid_for_every_size_hardware_and_kind_of_captions(
    hardware: Hardware, count: int, facts: dict[str, int]
) -> None:
    spec = written(profile(count, **facts), hardware, machine=Machine(4, 16.0, 3)).spec
    assert spec.train is not None
    assert spec.filter is not None
    assert spec.train.samples % spec.train.batch_size == 0
    assert spec.train.schedule.warmup_samples < spec.train.samples
    assert spec.train.batch_size <= count * 0.9
    assert (spec.filter.min_objects, spec.filter.min_complexity, spec.filter.min_actions) == (1, 0, 0)
    assert (spec.label is None) == (facts.get("concepts") == 10_000)
    assert spec.train.distillation.mode == ("Disabled" if spec.label is None else "Concepts")


@pytest.mark.parametrize(
    ("facts", "rules"),
    [
        ({}, (0, 1, 1)),
        ({"actions": 0}, (0, 1, 0)),
        ({"actions": 0, "complexity": 0}, (1, 0, 0)),
        ({"actions": 0, "complexity": 0, "concepts": 0}, (0, 0, 0)),
    ],
)
def test_large_pool_gets_the_papers_rules_as_far_as_its_captions_pass_them(
    facts: dict[str, int], rules: tuple[int, int, int]
) -> None:
    found = written(profile(300, total=SMALL_POOL, **facts)).spec.filter
    assert found is not None
    assert (found.min_objects, found.min_complexity, found.min_actions) == rules


@pytest.mark.parametrize(
    ("total", "hardware", "model", "start"),
    [(300, "laptop", None, "Ridge"), (SMALL_POOL, "laptop", None, "Random"), (300, "gpu-node", "ViT-B-32", "Random")],
)
def test_laptop_trains_on_stored_features_and_a_small_pool_begins_as_a_regression(
    total: int, hardware: Hardware, model: str | None, start: str
) -> None:
    spec = written(profile(300, total=total), hardware).spec
    assert spec.train is not None
    assert (spec.train.model, spec.train.text_start) == (model, start)
    assert spec.train.lock_image_tower == (spec.train.features == "Stored") == (model is None)
    assert spec.label is not None
    assert spec.label.teacher.crop == ("Whole" if model is None else "Network")


@pytest.mark.parametrize("concepts", [5, 10_000])
def test_small_pool_with_word_vectors_learns_from_their_regression_and_development_pairs_choose_the_weights(
    concepts: int,
) -> None:
    of = profile(300, concepts=concepts)
    split = held(of)
    names = replace(NAMES, words="words.safetensors")
    spec = load(
        render_document(names, of, split, LAPTOP, choose_defaults(of, split, LAPTOP, "laptop")), name="run.yaml"
    ).spec
    assert spec.train is not None
    assert (spec.train.words, spec.train.distillation.regression is None) == ("words.safetensors", False)
    assert spec.train.distillation.mode == ("Disabled" if spec.label is None else "Concepts")
    assert spec.train.interpolate[0] == 0
    assert spec.train.validation is not None
    assert spec.evaluate is not None
    assert spec.train.validation.shards == ["runs/mine-held-out/development.tar"]
    assert spec.evaluate.benchmarks[0].shards == ["runs/mine-held-out/00000.tar"]
    assert spec.train.batch_size <= split.development


def test_batch_and_model_grow_with_the_pairs() -> None:
    def train(total: int, hardware: Hardware) -> tuple[str | None, int]:
        found = written(profile(5000, total=total), hardware).spec.train
        assert found is not None
        return found.model, found.batch_size

    assert train(5000, "laptop") == (None, 256)  # of 500 pairs for development
    assert train(200_000, "gpu-node") == ("ViT-B-32", 8192)
    assert train(100_000_000, "cluster") == ("ViT-B-16", 16384)
    assert train(2_000_000_000, "cluster") == ("ViT-L-14", 16384)


@pytest.mark.parametrize(("concepts", "min_count", "top_k"), [(5, 5, 5), (30, 5, 10), (80, 3, 10)])
def test_top_k_is_no_larger_than_the_classes_that_are_left(concepts: int, min_count: int, top_k: int) -> None:
    label = written(profile(300, concepts=concepts)).spec.label
    assert label is not None
    assert (label.vocabulary.min_count, label.top_k) == (min_count, top_k)


def test_near_copies_are_dropped_unless_they_are_much_of_the_data() -> None:
    few, many = (written(profile(300), near=near).spec.filter for near in (0.05, 0.5))
    assert few is not None
    assert many is not None
    assert (few.decontaminate, many.decontaminate) == (["held-out"], [])


def test_bad_samples_raise_the_limit() -> None:
    few, many = (written(profile(300, bad=bad)).spec.filter for bad in (1, 30))
    assert few is not None
    assert many is not None
    assert few.max_bad_percent == 1.0
    assert 100 * 30 / 330 < many.max_bad_percent < 30


def test_too_few_pairs_are_refused_at_once() -> None:
    of = profile(12)
    with pytest.raises(DataError, match=r"12 usable pairs, .* are too few for a run: give 20 pairs or more"):
        choose_defaults(of, held(of), LAPTOP, "laptop")


def test_groups_hold_pairs_of_the_same_image_or_caption_together() -> None:
    first, other = profiled(1, caption="A dog"), profiled(3, caption="a cat")
    same_caption = profiled(2, caption="a dog")
    same_image = ProfiledPair(0, 9, "u9", same_caption.image_sha256, other.row, "another caption")
    found = duplicate_groups([first, same_caption, other, same_image])
    assert sorted(sorted(each.uid for each in group) for group in found) == [["u1", "u2", "u9"], ["u3"]]


def test_held_out_groups_depend_on_the_seed_alone_and_shared_captions_stay() -> None:
    found = [*profile(100).pairs, *(profiled(number, caption="image") for number in range(100, 120))]
    of = DatasetProfile(["data/0.tar"], 120, True, 120, found, {}, [(64, 64)] * 120)
    once, again, other = (choose_groups(of, seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert len(once[0]) == 24
    assert not any(each.caption == "image" for each in once[0])


@pytest.mark.parametrize(
    ("data", "name"),
    [("data/My Photos/", "my-photos"), ("s3://corpus/web_1/*.tar", "web-1"), ("2024", "run-2024"), ("a/b.tar", "b")],
)
def test_name_of_the_run_is_that_of_the_folder(data: str, name: str) -> None:
    assert run_name(data) == name
