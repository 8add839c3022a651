"""The ablation's own parts: every arm on a handful of images, pairing by seed, the plan of the second protocol."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import evidence
from benchmarks.ablation import plan
from benchmarks.ablation.arms import ARMS, SHOWN
from benchmarks.ablation.junk import junk_samples
from benchmarks.ablation.pools import Gallery, Material, Pairs
from benchmarks.ablation.processes import ROOT, shares
from benchmarks.ablation.published_labels import SoftLabels
from benchmarks.ablation.table import figure_columns, pairs_of
from benchmarks.ablation.table import table as table_of
from benchmarks.ablation.training import Bench, Sizes
from diht_k8s.api.documents import load
from diht_k8s.data.shards.images import decode
from diht_k8s.data.shards.samples import make_sample
from diht_k8s.report.per_image import PerImage
from diht_k8s.stages.label.soft_labels import HeadLabels


def pairs(count: int, name: str) -> Pairs:
    rng = np.random.default_rng(len(name))
    images = [Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)) for _ in range(count)]
    return Pairs([f"{name}{n}" for n in range(count)], [f"{name} image {n % 7}" for n in range(count)], images)


@pytest.fixture(scope="module")
def bench() -> Bench:
    raw = pairs(24, "raw")

    def labels(classes: int) -> HeadLabels:
        rng = np.random.default_rng(classes)
        return HeadLabels(rng.integers(0, classes, (16, 3)), np.full((16, 3), 1 / 3, np.float32))

    soft = SoftLabels(labels(5), labels(4), (5, 4))
    material = Material(
        raw=raw,
        junk=pairs(10, "junk"),
        kept=raw.chosen(range(16)),
        junk_kept=pairs(3, "left"),
        labels={"teacher": soft, "untrained": soft, "captions": soft},
        digest="d",
        probes={"categories": (pairs(20, "probed"), np.arange(20) % 2)},
        galleries={name: Gallery(pairs(9, name), np.array([0, 1, -1] * 3)) for name in ("style", "concepts")},
    )
    sizes = Sizes(samples=24, batch_size=8, image_size=32, width=8)
    return Bench(material, sizes, ["left", "raw"], ["{}", "a picture of {}"])


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_arm_when_trained_then_gives_figures_that_a_second_run_repeats(bench: Bench, arm: object) -> None:
    (first, images), (second, _) = bench.run(arm, 1), bench.run(arm, 1)  # type: ignore[arg-type]
    assert {**first, "cpu_s": 0} == {**second, "cpu_s": 0}
    assert math.isfinite(first["loss"])
    assert 0 <= first["r1"] <= first["r5"] <= first["r10"] <= 100
    assert "categories linear" in images
    for name in SHOWN:  # what the comparison resamples adds up to the figure
        for gallery, prefix in (("style", ""), ("concepts", "concepts "))[: 1 if name == "zero_shot" else 2]:
            hits_N, weights_N = images[gallery].figures[name]
            assert 100 * hits_N.sum() / weights_N.sum() == pytest.approx(first[prefix + name], abs=6e-4)


def test_pools_when_random_then_as_large_as_what_the_filter_keeps_and_drawn_by_the_seed(bench: Bench) -> None:
    material = bench.material
    assert [
        len(material.pool(name, np.random.default_rng(0))) for name in ("kept", "random", "junk_kept", "junk_random")
    ] == [16, 16, 19, 19]
    one, same, other = (material.pool("random", np.random.default_rng(seed)).uids for seed in (0, 0, 1))
    assert one == same != other


def test_junk_when_made_then_a_fifth_are_banners_and_captions_are_no_sentences_of_the_pool() -> None:
    raw = [make_sample(str(n), {"png": b"x", "json": f'{{"caption": "a red fox {n}"}}'.encode()}) for n in range(4)]
    made = [make_sample(key, members) for key, members in junk_samples(raw, 50, 0)]
    banners = [sample for sample in made if sample.members.get("png", b"x") != b"x"]
    assert len(banners) == 10
    assert decode(banners[0].image).size == (96, 96)
    assert not {sample.caption for sample in made if sample not in banners} & {sample.caption for sample in raw}
    assert len({sample.uid for sample in made}) == 50


def kept_hits(gains: dict[str, float], seeds: int) -> dict[tuple[str, int], PerImage]:
    """300 images that all arms see alike, but for a gain of some."""
    rng = np.random.default_rng(0)
    found: dict[tuple[str, int], PerImage] = {}
    for seed in range(seeds):
        base_N, better_N = rng.random(300) < 0.3, rng.random(300)
        for arm, gain in gains.items():
            hits_N = np.where(better_N < abs(gain), gain > 0, base_N).astype(float)
            uids = [str(number) for number in range(300)]
            figures = {name: (hits_N, np.ones(300)) for name in SHOWN}
            found[arm, seed] = PerImage(uids, [""] * 300, [""] * 300, figures)
    return found


def table(kept: dict[tuple[str, int], PerImage]) -> str:
    return table_of(figure_columns(kept), pairs_of(arm for arm, _ in kept))


def test_table_when_seeds_are_missing_then_only_common_seeds_are_paired() -> None:
    kept = kept_hits({"plain": 0.0, "distill": 0.2, "distill_shuffled": 0.0}, seeds=6)
    del kept["distill", 5]
    shown = table(kept)
    for against in ("plain", "distill_shuffled"):
        assert re.search(rf"`distill` \| `{against}` \| [\d.]+, \*\*\+1\d\.\d \(.*\| 5 \|", shown)
    assert re.search(r"`distill_shuffled` \| `plain` \| [\d.]+, \+0\.0 \(\+0\.0 to \+0\.0\) \|.*\| 6 \|", shown)


def test_table_when_many_differences_are_tested_then_one_that_is_clear_alone_is_not_called_clear() -> None:
    """Holm's correction is over the table: the same difference among 4 figures and among 24."""
    gains = {"plain": 0.0, "distill": 0.045}  # p = 0.0066
    alone = kept_hits(gains, seeds=1)
    first = table(alone)
    more = kept_hits(
        {**gains, **dict.fromkeys(("distill_captions", "hn_0.25", "hn_0.5", "hn_1", "random"), 0.0)}, seeds=1
    )
    crowded = table(more)
    difference = re.search(r"`plain` \| [\d.]+, \**(\+[\d.]+ \([^)]*\))", first)
    assert difference is not None
    assert f", **{difference[1]}**" in first
    assert f", {difference[1]} |" in crowded


def test_table_when_the_gallery_has_no_classes_then_shows_what_there_is() -> None:
    kept = kept_hits({"plain": 0.0, "distill": 0.2}, seeds=2)
    for each in kept.values():
        each.figures.pop("zero_shot", None)
    assert table(kept).splitlines()[0].endswith("R@1 | MRR | seeds |")


@pytest.mark.parametrize(
    ("seeds", "processes", "expected"),
    [(10, 2, [(100, 5), (105, 5)]), (10, 3, [(100, 3), (103, 4), (107, 3)]), (1, 2, [(100, 1)]), (3, 1, [(100, 3)])],
)
def test_seeds_when_shared_over_processes_then_each_is_trained_once(
    seeds: int, processes: int, expected: list[tuple[int, int]]
) -> None:
    assert shares(100, seeds, processes) == expected


def test_evidence_when_its_corpus_is_not_built_then_names_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evidence, "CORPUS", tmp_path / "runs/latest/train")
    monkeypatch.setattr("sys.argv", ["evidence", "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit):
        evidence.main()
    assert "python -m benchmarks.corpus" in capsys.readouterr().err


def test_evidence_document_when_loaded_then_is_valid_and_has_what_the_plan_measures() -> None:
    run = load((ROOT / plan.DOCUMENT).read_text(), name=plan.DOCUMENT)
    assert run.spec.evaluate is not None
    by_split = {
        split: [each for each in run.spec.evaluate.benchmarks if each.split == split]
        for split in ("HeldOut", "Development")
    }
    names = {split: {each.name for each in found} for split, found in by_split.items()}
    assert {plan.PRIMARY, plan.CAPTIONS, *plan.ELSEWHERE, *plan.PROBES} <= names["HeldOut"]
    assert set(plan.DEVELOPMENT) <= names["Development"]
    assert by_split["HeldOut"][0].name == plan.PRIMARY
    assert {each.name for each in by_split["HeldOut"] if each.type == "Classification"} == set(plan.PROBES)


def test_evidence_when_compared_with_its_protocol_then_has_its_lengths_arms_and_seeds() -> None:
    protocol = (ROOT / "benchmarks/ablation/PROTOCOL-2.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| (`.*`) \|$", protocol, re.MULTILINE)
    assert [(int(steps.replace(",", "")), tuple(re.findall(r"`([^`]+)`", arms))) for steps, arms in rows] == [
        (length.steps, length.arms) for length in plan.LENGTHS
    ]
    assert f"Seeds {plan.FIRST_SEED} to {plan.FIRST_SEED + plan.SEEDS - 1}," in protocol
    known = {arm.name: arm for arm in ARMS}
    for length in plan.LENGTHS:
        assert set(length.arms) <= set(known)
    decided = next(length for length in plan.LENGTHS if length.steps == plan.STEPS)
    assert {name for pair in plan.PARTS for name in pair} | {"distill", *plan.CONTROLS} == set(decided.arms)
    assert re.findall(r"^(\d+) trainings", protocol, re.M) == [str(plan.PLANNED)]
    assert f"12,000 steps have seeds {plan.FIRST_SEED} to {plan.FIRST_SEED + plan.SEEDS_BEYOND - 1} alone" in protocol


def test_arm_of_captions_when_trained_then_learns_the_captions_labels_and_no_teachers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {arm.name: arm for arm in ARMS}
    asked: list[str] = []

    class Labels(dict[str, SoftLabels]):
        def __getitem__(self, source: str) -> SoftLabels:
            asked.append(source)
            return super().__getitem__(source)

    monkeypatch.setattr(bench, "material", replace(bench.material, labels=Labels(bench.material.labels)))
    for name, source in (
        ("distill_captions", "captions"),
        ("distill_untrained", "untrained"),
        ("distill_shuffled", "teacher"),
        ("distill", "teacher"),
    ):
        asked.clear()
        bench.run(arms[name], 1)
        assert set(asked) == {source}


def test_table_when_the_other_arm_was_not_trained_then_compares_with_those_that_were() -> None:
    shown = table(kept_hits({"distill": 0.2, "distill_shuffled": 0.0}, seeds=6))
    assert re.search(r"`distill` \|  \| [\d.]+ \|", shown)
    assert re.search(r"`distill` \| `distill_shuffled` \| [\d.]+, \*\*\+1\d\.\d \(", shown)
