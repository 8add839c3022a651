"""Dropout draws from torch's generator, seeded before each pass of a micro-batch."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diht_k8s.api.train import Train
from diht_k8s.stages.train import engine
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.model.student import Student, draws_in_training

TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
NETWORK = {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 32}
VIT = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
ROWS, MICRO = 4, 2


def student(**vision: Any) -> Student:
    torch.manual_seed(0)
    return Student({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT})


class Plain:
    """DeepSpeed's engine without its work."""

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.optimizer = SimpleNamespace(param_groups=optimizer.param_groups)
        self._model = model

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        pass

    def step(self) -> None:
        pass


def outputs(monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, seed: int = 5, **train: Any) -> dict[str, list[Tensor]]:
    """What each module that drops gives in steps 3 and 4, which see the same images with the same weights."""
    monkeypatch.setattr(engine.deepspeed, "initialize", lambda *, model, optimizer, **_: (Plain(model, optimizer),))
    model = student(**NETWORK, timm_drop=0.3, timm_drop_path=0.5, patch_dropout=0.25)
    settings = {"samples": 8, "batchSize": ROWS, "precision": "fp32", "zeroStage": 0, "model": "ViT-B-32", **train}
    made = Train.model_validate(settings)
    if made.activation_checkpointing:
        model.set_grad_checkpointing()
    seen = defaultdict[str, list[Tensor]](list)
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) and draws_in_training(module) and not list(module.children()):
            module.register_forward_hook(lambda _module, _input, out, name=name: seen[name].append(out.detach()))
    tokens = torch.tensor([[1, 5, 63] + [0] * 9] * ROWS)
    images = torch.arange(ROWS * 32 * 32 * 3).reshape(ROWS, 32, 32, 3).to(torch.uint8)
    batch = Batch(images, tokens, torch.arange(ROWS), None, [""] * ROWS, {})
    trained = engine.Engine(made, model, rank=rank, world=1, seed=seed)
    for number in (3, 4):
        trained.step(batch, number=number)
    return seen


def different(found: list[Tensor]) -> int:
    return len({tuple(each.flatten().tolist()) for each in found})


@pytest.mark.parametrize("recomputed", [False, True])
def test_masks_when_a_micro_batch_passes_again_then_the_same_and_others_in_other_micro_batches_and_steps(
    recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outputs(monkeypatch, microBatchSize=MICRO, activationCheckpointing=recomputed)
    passes = [len(each) for each in found.values()]
    micro_batches = 2 * ROWS // MICRO
    assert {name.split(".")[-1] for name in found} >= {"patch_drop", "drop", "drop_path1"}
    assert max(passes) == (3 if recomputed else 2) * micro_batches  # without a graph, with one, and again
    counts = {name: different(each) for name, each in found.items()}
    assert {count for name, count in counts.items() if name.endswith((".drop", "patch_drop"))} == {micro_batches}
    assert max(counts.values()) == micro_batches  # of so few paths two micro-batches may drop the same ones


def test_masks_when_seed_or_rank_is_another_then_others_and_else_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    base = outputs(monkeypatch)
    first, *others = (
        [name for name, each in base.items() if different(each + made[name]) == different(each)]
        for made in (outputs(monkeypatch), outputs(monkeypatch, seed=6), outputs(monkeypatch, rank=1))
    )
    assert first == list(base)
    assert not [name for each in others for name in each if name.endswith((".drop", "patch_drop"))]


@pytest.mark.parametrize(
    ("vision", "draws"),
    [
        (VIT, False),
        ({**VIT, "patch_dropout": 0.5}, True),
        (NETWORK, False),
        ({**NETWORK, "timm_drop": 0.1}, True),
        ({**NETWORK, "timm_drop_path": 0.1}, True),
        ({**NETWORK, "timm_model_name": "ghostnet_050", "timm_proj": ""}, True),
    ],
    ids=["ViT", "patches", "timm", "elements", "paths", "by a function"],
)
def test_model_when_it_drops_anything_then_it_draws(vision: dict[str, Any], draws: bool) -> None:
    assert draws_in_training(student(**vision)) is draws
