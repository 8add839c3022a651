"""The cost of HN-NCE by formula: of the tiles beside counted operators; of the kernels beside what they shall not exceed."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diht_k8s.stages.train.loss.blocks import LossBlocks, plan_for
from diht_k8s.stages.train.loss.cost import fused_cost, tiled_cost
from diht_k8s.stages.train.loss.losses import hn_nce_loss

WITHOUT_KERNEL = ("empty", "detach", "_to_copy", "ones_like")
ONLY_WRITTEN = ("copy_", "fill_")
H100 = {"half_tflops": 989.0, "fp32_tflops": 67.0, "bandwidth": 3.35e12, "l2_bandwidth": 5.5e12}


class Operators(TorchDispatchMode):
    """Operators that take a kernel, and the bytes of their inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not (func.is_view or name.endswith(WITHOUT_KERNEL)):
            self.launches += 1
            read = args[1:] if name in ONLY_WRITTEN else args
            for tensor in [*tree_leaves((read, {**kwargs, "out": None})), *tree_leaves(result)]:
                self.bytes += tensor.numel() * tensor.element_size() if torch.is_tensor(tensor) else 0
        return result


@pytest.mark.parametrize(("pairs", "width", "chunk_size"), [(16384, 512, 256), (16384, 512, 512), (20000, 768, 256)])
def test_cost_of_the_tiles_equals_the_counted_operators(pairs, width, chunk_size):
    inputs = [torch.empty(size, device="meta", requires_grad=True) for size in ((pairs, width), (pairs, width), ())]
    with Operators() as counted:
        torch.autograd.grad(hn_nce_loss(*inputs, chunk_size=chunk_size), inputs)
    cost = tiled_cost(pairs, pairs, width, chunk_size=chunk_size)
    assert counted.bytes == pytest.approx(cost.moved, rel=0.03)
    assert counted.launches == pytest.approx(cost.launches, abs=4)


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_cost_of_the_kernels_on_a_node_of_h100s_is_within_what_was_set(width):
    tiles, fused = tiled_cost(4096, 32768, width), fused_cost(4096, 32768, width)
    assert fused.moved <= 2e9
    assert fused.launches <= 12
    assert fused.seconds(**H100) < tiles.seconds(**H100)


def test_bytes_that_the_kernels_move_are_those_added_up_term_by_term():
    assert fused_cost(4096, 32768, 512).moved == 519_898_440


@pytest.mark.parametrize(
    ("width", "parts", "chunks"), [(512, 1, 4), (500, 1, 4), (20, 1, 1), (640, 2, 3), (768, 2, 3), (1024, 2, 4)]
)
def test_parts_of_a_width_cover_it_evenly(width, parts, chunks):
    assert plan_for((9, 0), 132).second.parts(width) == (parts, chunks)


@pytest.mark.parametrize(
    ("rows", "columns", "processors", "shares"),
    [(4096, 32768, 132, 4), (4096, 32768, 108, 3), (32768, 4096, 132, 1), (128, 256, 132, 2), (0, 256, 132, 2)],
)
def test_shares_give_each_processor_at_most_one_program_of_few_rows(rows, columns, processors, shares):
    assert LossBlocks(128, 128, 64, 8, 3).shares(rows, columns, processors) == shares


def test_cost_on_a_card_without_the_kernels_is_refused():
    with pytest.raises(ValueError, match="do not run on this card"):
        fused_cost(64, 64, 64, plan=plan_for((7, 5), 40))
