"""When HN-NCE runs by the fused kernels: on cards that have them, in what the kernels compute, with a compiler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from diht_k8s.stages.train.loss import losses
from diht_k8s.stages.train.loss.blocks import LossBlocks, plan_for

H100 = (9, 0)


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "capability", "cuda", "missing", "fused"),
    [
        (True, torch.float32, H100, "13.0", None, True),
        (True, torch.bfloat16, (8, 0), "13.0", None, True),
        (True, torch.float16, (12, 0), "13.0", None, True),
        (True, torch.float32, (7, 5), "13.0", None, False),
        (True, torch.float64, H100, "13.0", None, False),
        (True, torch.float32, H100, None, None, False),
        (True, torch.float32, H100, "13.0", "a C compiler", False),
        (False, torch.float32, H100, "13.0", None, False),
    ],
    ids=["H100", "A100 in bf16", "12.0 in fp16", "T4", "float64", "ROCm", "no compiler", "CPU"],
)
def test_fused_kernels_are_chosen_where_they_run(monkeypatch, is_cuda, dtype, capability, cuda, missing, fused):
    major, minor = capability
    card = SimpleNamespace(major=major, minor=minor, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(losses, "missing_compiler", lambda device_type: missing)
    losses._plan_of_card.cache_clear()
    features = SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device="cuda:0")
    plan = losses.fused_plan(features, features)
    assert plan == (plan_for(capability, 132) if fused else None)


@pytest.mark.parametrize("side", [0, 1])
def test_features_of_one_side_in_float64_are_left_to_the_tiles(side):
    sides = [SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda:0") for _ in range(2)]
    sides[side].dtype = torch.float64
    assert losses.fused_plan(*sides) is None


@pytest.fixture(autouse=True)
def forget_the_cards():
    yield
    losses._plan_of_card.cache_clear()


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
