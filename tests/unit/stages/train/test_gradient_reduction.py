from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from diht_k8s.api.train import Train
from diht_k8s.stages.train.deepspeed_engine import (
    BUCKETS_IN_FLIGHT,
    MAX_BUCKET_ELEMENTS,
    OverlappedReduction,
    bucket_elements,
    deepspeed_settings,
)


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
