"""The losses' time by the roofline; what the loss of embeddings moves, beside counted operators."""

from __future__ import annotations

from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diht_k8s.stages.train.estimate.gpus import GPUS
from diht_k8s.stages.train.estimate.loss_time import (
    CACHE_BYTES_PER_SECOND,
    GAP_SECONDS,
    contrastive_cost,
    contrastive_seconds,
    embedding_cost,
    embedding_seconds,
)
from diht_k8s.stages.train.loss.cost import LossCost
from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss

H100 = GPUS["H100"]
TILED = LossCost(4, 67 * 10**9, "fp32", 3350 * 10**6, 0, 500)
"""A millisecond of products, one of memory and one of gaps."""
WITHOUT_KERNEL: Final = (
    "t",
    "view",
    "slice",
    "select",
    "unsqueeze",
    "expand",
    "detach",
    "_unsafe_view",
    "unbind",
    "alias",
    "transpose",
    "empty",
    "new_empty",
    "empty_like",
    "as_strided",
    "squeeze",
    "permute",
    "lift_fresh",
    "_local_scalar_dense",
)


def half(operations: float = 0, moved: float = 0, requested: float = 0) -> LossCost:
    return LossCost(15, int(operations), "half", int(moved), int(requested), 10)


@pytest.mark.parametrize(
    ("cost", "seconds"),
    [
        (TILED, 3e-3),
        (half(operations=989e9), 1e-3 + 10 * GAP_SECONDS),
        (half(operations=989e9, moved=2 * 3350e6), 2e-3 + 10 * GAP_SECONDS),
        (half(989e9, 3350e6, 3 * 132 * CACHE_BYTES_PER_SECOND * 1e-3), 3e-3 + 10 * GAP_SECONDS),
    ],
    ids=["tiles, one after the other", "products", "memory", "cache"],
)
def test_time_of_tiles_adds_up_and_of_a_fused_kernel_the_slowest_counts(cost: LossCost, seconds: float) -> None:
    assert contrastive_seconds(H100, cost) == pytest.approx(seconds)


def test_fused_kernels_are_bounded_by_16_bit_products_and_tiles_by_fp32() -> None:
    tiled, fused = (contrastive_cost(H100, 4096, 32768, 512, fused=fused) for fused in (False, True))
    assert (tiled.rate, fused.rate) == ("fp32", "half")
    assert 0 < 3 * contrastive_seconds(H100, fused) < contrastive_seconds(H100, tiled)


def test_kernels_are_those_of_the_card_and_tiles_where_it_has_none() -> None:
    assert contrastive_cost(GPUS["T4"], 64, 4096, 512) == contrastive_cost(H100, 64, 4096, 512, fused=False)
    small, large = (contrastive_cost(GPUS[name], 512, 8192, 512) for name in ("H100-PCIe", "H100"))
    assert small.moved < large.moved  # fewer processors share the columns
    assert contrastive_cost(GPUS["L4"], 4096, 4096, 512).requested > contrastive_cost(H100, 4096, 4096, 512).requested


class Moved(TorchDispatchMode):
    """Counts kernels and the bytes that each reads and writes."""

    kernels = 0
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in WITHOUT_KERNEL:
            return made
        read = {name: value for name, value in (kwargs or {}).items() if name != "out"}
        tensors = [leaf for leaf in tree_leaves((args, read, made)) if isinstance(leaf, Tensor)]
        self.kernels += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return made


@pytest.mark.parametrize(("pairs", "width", "teacher_width"), [(1024, 64, 32), (2048, 32, 96), (16384, 512, 768)])
def test_loss_of_embeddings_moves_what_its_operators_move(pairs: int, width: int, teacher_width: int) -> None:
    image, text = (torch.empty(pairs, width, device="meta", requires_grad=True) for _ in range(2))
    scale = torch.empty((), device="meta", requires_grad=True)
    teacher = torch.empty(pairs, 2, teacher_width, device="meta", dtype=torch.float16)
    with Moved() as counted:
        embedding_loss(image, text, scale, teacher, temperature=0.1).backward()
    operations, moved, kernels = embedding_cost(pairs, pairs, width, teacher_width)
    assert kernels == counted.kernels
    assert moved == pytest.approx(counted.bytes, rel=0.02)
    assert operations == pairs**2 * (2 + 2 + 4) * width + pairs**2 * (2 + 2) * teacher_width
    expected = operations / 67e12 + moved / 3350e9 + kernels * GAP_SECONDS
    assert embedding_seconds(H100, pairs, pairs, width, teacher_width) == pytest.approx(expected)


def test_every_card_has_the_figures_of_a_roofline() -> None:
    for card in GPUS.values():
        assert card.half_tflops > card.fp32_tflops > 1
        assert 300 <= card.gigabytes_per_second <= 8000
        assert 40 <= card.processors <= 188
        assert card.bf16 is (card.capability >= (8, 0))
