"""Dropout draws from torch's generator, seeded before each pass of a micro-batch."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from diht_k8s.api.train import Train
from diht_k8s.stages.train import engine
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.deepspeed_engine import (
    BUCKETS_IN_FLIGHT,
    MAX_BUCKET_ELEMENTS,
    OverlappedReduction,
    bucket_elements,
    deepspeed_settings,
)
from diht_k8s.stages.train.engine import Stopwatch
from diht_k8s.stages.train.model.student import Student, draws_in_training

TEXT = {"context_length": 12, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
NETWORK = {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 32}
VIT = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
ROWS, MICRO = 4, 2


def student(*, num_objects: int = 0, num_attributes: int = 0, **vision: Any) -> Student:
    torch.manual_seed(0)
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    return Student(config, num_objects=num_objects, num_attributes=num_attributes)


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


def test_stopwatch_when_on_a_gpu_then_its_milliseconds_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mark:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def elapsed_time(self, other: Mark) -> float:
            assert other is not self
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Mark)
    watch = Stopwatch(torch.device("cuda"))
    watch.start()
    watch.stop()
    assert watch.seconds() == 0.25


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
    engine.Engine(train, student(**VIT), rank=0, world=1)
    assert {name for name in given if name.startswith("offload")} == moved
    assert given["stage"] == 3


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(1, 2), (1001, 250), (151_000_000, MAX_BUCKET_ELEMENTS), (2_000_000_000, MAX_BUCKET_ELEMENTS)],
)
def test_bucket_when_sized_then_bounded_even_and_a_part_of_the_model(parameters: int, expected: int) -> None:
    assert bucket_elements(parameters) == expected


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_settings_when_several_processes_then_deepspeed_overlaps_in_bounded_buckets(world: int, stage: int) -> None:
    train = Train(model="ViT-L-14", samples=1, batch_size=64, zero_stage=stage)
    settings = deepspeed_settings(train, micro_batch=8, world=world, parameters=428_000_000)
    zero = settings["zero_optimization"]
    assert zero["overlap_comm"] is (world > 1)
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == MAX_BUCKET_ELEMENTS
    assert settings["gradient_accumulation_steps"] == 64 // world // 8
    assert settings["timers"] == {"throughput": {"enabled": False}}  # two synchronisations a step


@pytest.mark.parametrize(
    ("batch", "micro", "world", "parts", "padded"),
    [(64, 64, 1, 1, 64), (64, 22, 3, 1, 66), (64, 10, 3, 3, 90), (16, 3, 7, 1, 21), (16, 2, 7, 2, 28)],
)
def test_settings_when_rows_hold_no_pair_then_deepspeed_counts_whole_micro_batches_of_all_ranks(
    batch: int, micro: int, world: int, parts: int, padded: int
) -> None:
    train = Train(model="ViT-L-14", samples=1, batch_size=batch)
    settings = deepspeed_settings(train, micro_batch=micro, world=world, parameters=1000)
    assert (settings["gradient_accumulation_steps"], settings["train_batch_size"]) == (parts, padded)


class Exchange:
    """Two ranks with equal gradients: each sum is twice what this one gives."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers, self.sizes, self.unfinished, self.missing, self.most = layers, [], 0, [], 0

    def all_reduce(self, flat: torch.Tensor, *, async_op: bool) -> Exchange:
        assert async_op
        self.sizes.append(flat.numel())
        self.missing.append(sum(layer.get_parameter("weight").grad is None for layer in self.layers))
        self.unfinished += 1
        self.most = max(self.most, self.unfinished)
        flat.mul_(2)
        return self

    def wait(self) -> None:
        self.unfinished -= 1


@pytest.fixture
def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(4, 4, bias=False) for _ in range(5)]


@pytest.fixture
def exchange(layers: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> Exchange:
    found = Exchange(layers)
    monkeypatch.setattr(dist, "all_reduce", found.all_reduce)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return found


@pytest.mark.parametrize(("elements", "sizes"), [(32, [32, 32, 16]), (8, [16] * 5)])
def test_buckets_when_gradients_come_then_travel_during_the_backward_pass(
    layers: list[nn.Module], exchange: Exchange, elements: int, sizes: list[int]
) -> None:
    network = nn.Sequential(*layers)
    parameters = list(network.parameters())
    x_BW = torch.randn(2, 4)
    expected = torch.autograd.grad(network(x_BW).square().sum(), parameters)
    reduction = OverlappedReduction(parameters, torch.float32, elements=elements)
    network(x_BW).square().sum().backward()  # another part of the batch, summed up here only
    assert exchange.sizes == []
    with reduction.during():
        network(x_BW).square().sum().backward()
    assert exchange.sizes == sizes
    assert exchange.unfinished == 0
    assert exchange.most == BUCKETS_IN_FLIGHT
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_bucket_when_full_then_sent_before_the_first_layer_has_its_gradient(
    layers: list[nn.Module], exchange: Exchange
) -> None:
    reduction = OverlappedReduction(nn.Sequential(*layers).parameters(), torch.float32, elements=16)
    with reduction.during():
        nn.Sequential(*layers)(torch.randn(2, 4)).sum().backward()
    assert exchange.missing == [4, 3, 2, 1, 0]


def test_reduction_when_a_parameter_has_no_gradient_then_every_rank_still_sends_all_buckets(
    layers: list[nn.Module], exchange: Exchange
) -> None:
    reduction = OverlappedReduction(nn.Sequential(*layers).parameters(), torch.float32, elements=16)
    with reduction.during():
        layers[0](torch.randn(2, 4)).sum().backward()
    assert exchange.sizes == [16] * 5
    torch.testing.assert_close(layers[4].get_parameter("weight").grad, torch.zeros(4, 4))
