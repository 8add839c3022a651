from __future__ import annotations

from typing import Any

import yaml

from diht_k8s.api.run import DihtRun
from diht_k8s.stages.train.model.export import card
from tests.unit.api.documents import run_over

SUMMARY = {"samples": 40960, "steps": 160, "seconds": 90.0, "loss": {"first": 5.5, "last": 2.1}}
COUNTS = {"input": 100, "kept": 60, "dropped": {"complexity": 30, "text": 8}, "bad": {"picture_unreadable": 2}}


def run(**spec: Any) -> DihtRun:
    train = {"model": "ViT-B-16", "samples": 40960, "loss": {"beta": 0.5}}
    return run_over("s3://corpus/raw/{00..12}.tar", "s3://corpus/out", **{"train": train, **spec})


def test_card_when_written_then_data_funnel_numbers_and_licences_are_there() -> None:
    text = card(
        run(filter={}, label={"teacher": {"model": "timm/tf_efficientnet_lite0"}}), {"embed_dim": 512}, SUMMARY, COUNTS
    )
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "open_clip"
    for part in (
        "# ViT-B-16",
        "40,960 samples in 160 steps, 1.5 minutes",
        "**a**: `s3://corpus/raw/{00..12}.tar`",
        "| dropped: complexity | -30 |",
        "| unusable: picture_unreadable | -2 |",
        "| kept | 60 |",
        "beta: 0.5",
        '"embed_dim": 512',
        "`timm/tf_efficientnet_lite0`",
        "licence",
    ):
        assert part in text, part


def test_card_when_without_filter_and_labels_then_said() -> None:
    train = {"model": "ViT-B-16", "samples": 1, "distillation": {"mode": "Disabled"}}
    text = card(run(train=train), {}, SUMMARY, None)
    assert "This run had no filter of its own." in text
    assert "none, this run did not distil" in text
    embeddings = {**train, "labels": "s3://corpus/label/1", "distillation": {"mode": "Disabled", "embeddings": {}}}
    assert "that of the labels `s3://corpus/label/1`" in card(run(train=embeddings), {}, SUMMARY, None)


def test_card_when_held_out_pairs_chose_the_weights_then_which_and_by_how_much() -> None:
    gain = {"value": 2.2, "interval": [-0.3, 4.6]}
    tried = {"share": 0.5, "recall_at_5": {"0": 34.1, "0.5": 36.3, "1": 33.0}, "gain": gain}
    train = {"model": "ViT-B-16", "samples": 1, "distillation": {"mode": "Disabled"}}
    text = card(run(train=train), {}, SUMMARY | {"interpolation": tried}, None)
    assert "at 0.5 of the way" in text
    assert "0 finds 34.1 %, 0.5 finds 36.3 %, 1 finds 33.0 %; +2.2 points over its first, -0.3 to +4.6" in text
    assert "no held-out pairs chose" in card(run(train=train), {}, SUMMARY, None)
