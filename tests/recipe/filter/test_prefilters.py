"""Rules that come before C, A and T, over whole shards in the layouts of common tools, each with its counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.run_folder import run_layout
from tests.recipe.filter.shards import (
    encoded,
    filter_pairs,
    filter_with,
    folder_of,
    kept_keys,
    pair,
    report_of,
    run_of,
    scene,
    tar_of,
    with_spec,
)

GOOD = "a small dog chasing a red ball"


def test_each_rule_counts_what_it_drops_in_the_order_of_the_rules(tmp_path: Path) -> None:
    samples = [
        *pair("a", GOOD, punsafe=0.1),
        *pair("b", "le chien et la balle rouge"),
        *pair("c", GOOD, punsafe=0.9),
        *pair("d", GOOD, encoded(Image.new("RGB", (400, 20)))),
        *pair("e", GOOD, encoded(Image.new("RGB", (20, 20)))),
        *pair("f", "server"),
    ]
    rules = {
        "language": "en",
        "metadataLimits": [{"name": "punsafe", "max": 0.5}],
        "maxAspectRatio": 4,
        "minSide": 32,
    }
    committed = filter_pairs(tmp_path, samples, rules)
    dropped = {"complexity": 1, "language": 1, "metadata": 1, "size": 2}
    assert committed.summary["counts"] == {"input": 6, "kept": 1, "bad": {}, "dropped": dropped}
    funnel = report_of(tmp_path / "out")["funnel"]
    steps = [(step["step"], step["samples"]) for step in funnel if step["dropped"] or step["step"] == "input"]
    assert steps == [("input", 6), ("language", 5), ("metadata", 4), ("complexity", 3), ("size", 1)]


def test_near_duplicates_of_a_benchmark_are_dropped_and_its_other_images_run_the_stage_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([*pair("a", GOOD, encoded(scene(1))), *pair("b", GOOD, encoded(scene(2)))]))
    benchmark = {"name": "flickr", "type": "Retrieval", "shards": [f"{tmp_path}/test.tar"]}
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar", {"decontaminate": ["flickr"]})
    run = with_spec(run, evaluate={"model": "elsewhere/model", "benchmarks": [benchmark]})
    for seed, kept in ((1, ["b"]), (2, ["a"])):
        small = encoded(scene(seed).resize((64, 48)), "JPEG", quality=60)
        (tmp_path / "test.tar").write_bytes(tar_of(pair("x", "anything", small)))
        committed = filter_with(run)
        assert committed.summary["counts"]["dropped"] == {"benchmark": 1}
        assert kept_keys(tmp_path / "out", "web-a") == kept


def test_images_and_captions_may_have_other_names(tmp_path: Path) -> None:
    """Kept shards use the usual names, so later stages need no setting."""
    members = [("a.img", encoded(scene(1))), ("a.json", json.dumps({"alt_text": GOOD}).encode())]
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    run = run_of(tmp_path / "out", f"{tmp_path}/a.tar", imageKey="img", captionKey="alt_text")
    filter_with(run)
    (kept,) = kept_shards(run.spec, Storage(), run_layout(run, Storage()))
    (sample,) = read_samples(Storage(), kept.uri)
    assert (sample.problem, sample.caption, sample.image) == (None, GOOD, encoded(scene(1)))
    assert folder_of(run_of(tmp_path / "out", f"{tmp_path}/a.tar", imageKey="img")) != folder_of(run)


def test_other_names_without_a_filter_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(pair("a", GOOD)))
    train = {"model": "ViT-B-32", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}}
    run = with_spec(run_of(tmp_path / "out", f"{tmp_path}/a.tar", imageKey="img"), filter=None, train=train)
    with pytest.raises(
        UserError, match=r"spec\.data\.sources web: imageKey and captionKey are read by the stage filter"
    ):
        kept_shards(run.spec, Storage(), Layout(str(tmp_path)))
