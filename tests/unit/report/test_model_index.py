"""The card with results, read by huggingface_hub as its site reads it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from huggingface_hub import ModelCard

from diht_k8s.api.evaluate import Benchmark
from diht_k8s.report.cards import TASKS, card_with_results

TRAINED = "---\nlibrary_name: open_clip\nlicense: other\ntags: [clip, diht]\n---\n# towers\n\nText\n---\nmore.\n"


def side(value: float) -> dict[str, Any]:
    return {"recall": {"1": value}, "interval": {"1": [value - 0.01, value + 0.01]}, "chance": {"1": 0.002}}


def content(**changes: Any) -> dict[str, Any]:
    pets = {
        "name": "pets | clean",
        "type": "Classification",
        "split": "HeldOut",
        "top1": 0.24164,
        "chance": 0.1,
        "top1_interval": [0.2, 0.3],
        "balanced": 0.2,
        "balanced_interval": [0.15, 0.25],
    }
    gallery = {"name": "gallery", "type": "Retrieval", "text_to_image": side(0.05), "image_to_text": side(0.04)}
    pairs = {
        "name": "pairs",
        "type": "PairMatching",
        "scores": [{"name": "text score", "value": 0.3, "interval": [0.2, 0.4], "chance": 0.25}],
    }
    failed = {"name": "gone", "type": "Retrieval", "error": "no shard"}
    return {
        "config": {"spec": {"train": {"model": "towers"}}},
        "model": {"name": "model"},
        "benchmarks": [pets, gallery, pairs, failed],
        "notes": ["look | twice"],
        **changes,
    }


def test_card_when_read_by_hugging_face_then_has_each_figure_with_dataset_split_and_metric() -> None:
    card = ModelCard(card_with_results(TRAINED, content()))
    results = card.data.eval_results
    assert results is not None
    assert card.data.model_name == "towers"
    assert [(r.task_type, r.dataset_name, r.metric_type, r.metric_value) for r in results] == [
        ("zero-shot-image-classification", "pets | clean", "accuracy", 24.16),
        ("zero-shot-image-classification", "pets | clean", "balanced_accuracy", 20.0),
        ("image-text-retrieval", "gallery", "recall_at_1", 5.0),
        ("image-text-retrieval", "gallery", "recall_at_1", 4.0),
        ("image-text-matching", "pairs", "text_score", 30.0),
    ]
    assert [r.dataset_split for r in results] == ["held-out", "held-out", None, None, None]
    assert results[2].metric_name == "caption to image, R@1, %"
    assert results[0].metric_args == {"confidence_interval_95": [20.0, 30.0]}


def test_card_when_the_training_wrote_one_then_keeps_its_fields_and_text() -> None:
    card = ModelCard(card_with_results(TRAINED, content()))
    assert (card.data.license, card.data.tags) == ("other", ["clip", "diht"])
    assert card.text.startswith("# towers\n\nText\n---\nmore.\n\n## Results")
    assert "| pets \\| clean | held-out | top-1 | 24.2 | 20.0 to 30.0 | 10.0 |" in card.text
    assert "- look \\| twice" in card.text


@pytest.mark.parametrize("card", [None, "no front matter"], ids=["none", "plain"])
def test_card_when_the_model_is_from_elsewhere_then_names_no_licence(card: str | None) -> None:
    found = ModelCard(card_with_results(card, content()))
    assert (found.data.library_name, found.data.license) == ("open_clip", None)
    assert found.data.eval_results is not None


def test_tasks_when_a_type_of_benchmark_is_added_then_it_has_a_task_too() -> None:
    assert set(get_args(Benchmark.model_fields["type"].annotation)) == set(TASKS)
