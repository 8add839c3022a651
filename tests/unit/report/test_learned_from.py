"""What the page says that a training learned from: what its settings had, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.report.sections import learned_from


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({}, ["hard negatives", "concept heads"]),
        ({"distillation": {"mode": "Disabled"}}, ["hard negatives"]),
        ({"loss": {"beta": 0.0}, "distillation": {"mode": "Disabled"}}, ["captions"]),
        (
            {"distillation": {"mode": "Disabled", "embeddings": {"weight": 1.0}}},
            ["hard negatives", "a teacher's embeddings"],
        ),
        ({"distillation": {"mode": "Concepts", "embeddings": None}}, ["hard negatives", "concept heads"]),
    ],
)
def test_page_names_what_the_training_learned_from(train: dict[str, Any], said: list[str]) -> None:
    assert learned_from({"config": {"spec": {"train": train}}}) == said
