"""DeepSpeed's parameter groups: learning rate and weight decay of each, and the place of states."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from diht_k8s.api.train import Distillation, Optimizer, Train
from diht_k8s.stages.train import engine
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_run import VIT


@pytest.mark.parametrize(("scale", "decay_scale"), [(10.0, 0.01), (1.0, 1.0), (3.0, 0.0)])
def test_heads_when_scaled_then_their_rate_and_decay_are_those_of_the_towers_times_the_scale(
    monkeypatch: pytest.MonkeyPatch, scale: float, decay_scale: float
) -> None:
    def initialize(*, optimizer: Any, **_: Any) -> tuple[Any]:
        return (SimpleNamespace(optimizer=optimizer),)

    monkeypatch.setattr(engine.deepspeed, "initialize", initialize)
    distillation = Distillation(head_lr_scale=scale, head_weight_decay_scale=decay_scale)
    train = Train(
        samples=16,
        batch_size=4,
        model="ViT-B-32",
        distillation=distillation,
        optimizer=Optimizer(weight_decay=0.2),
        precision="fp32",
    )
    made = engine.Engine(train, Student(VIT, num_objects=3, num_attributes=2), rank=0, world=1)
    made.set_learning_rate(1e-3)
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in made.deepspeed.optimizer.param_groups}
    assert found == {
        "towers": (1e-3, 0.2),
        "towers, no decay": (1e-3, 0.0),
        "heads": (pytest.approx(1e-3 * scale), pytest.approx(0.2 * decay_scale)),
        "heads, no decay": (pytest.approx(1e-3 * scale), 0.0),
    }


@pytest.mark.parametrize(
    ("offload", "moved"),
    [("None", set()), ("Optimizer", {"offload_optimizer"}), ("Parameters", {"offload_optimizer", "offload_param"})],
)
def test_states_when_offloaded_then_only_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, offload: str, moved: set[str]
) -> None:
    given: dict[str, Any] = {}

    def initialize(*, config: dict[str, Any], optimizer: Any, **_: Any) -> tuple[Any]:
        given.update(config["zero_optimization"])
        return (SimpleNamespace(optimizer=optimizer),)

    monkeypatch.setattr(engine.deepspeed, "initialize", initialize)
    train = Train.model_validate(
        {"samples": 16, "batchSize": 4, "model": "ViT-B-32", "precision": "fp32", "zeroStage": 3, "offload": offload}
    )
    engine.Engine(train, Student(VIT), rank=0, world=1)
    assert {name for name in given if name.startswith("offload")} == moved
    assert given["stage"] == 3
