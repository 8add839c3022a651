"""Counted operations, against a real model, known numbers and closed forms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.recipe.train.estimate.gpus import peak_flops
from diht_k8s.recipe.train.flops import CountedStudent, MfuMeter, StepFlops, step_flops
from diht_k8s.recipe.train.model.student import Student

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BATCH = 128


@functools.cache
def flops(*, in_parts: bool = False, **train: Any) -> StepFlops:
    settings = Train.model_validate({"modelConfig": TINY, "samples": 1, "batchSize": BATCH, **train})
    return step_flops(settings, num_objects=100, num_attributes=50, in_parts=in_parts)


@functools.cache
def tiny() -> CountedStudent:
    return CountedStudent(TINY)


def counted(call: Callable[[], Tensor]) -> int:
    with (
        FlopCounterMode(display=False) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        call().sum().backward()
    return counter.get_total_flops()


def test_flops_are_those_of_the_real_model_forward_and_backward() -> None:
    model, student = Student(TINY), tiny()
    image = counted(lambda: model.clip.encode_image(torch.zeros(1, 3, 32, 32)))
    text = counted(lambda: model.text_features(torch.zeros(1, 16, dtype=torch.long)))
    assert student.image_tower().both == image > 0
    assert student.text_tower(16).both == text > 0


def test_step_when_whole_then_three_forward_passes_less_the_pixels_gradient_and_logits_once_more() -> None:
    student, made = tiny(), flops()
    patches, width, pixels = 16, 64, 3 * 8 * 8
    assert made.parts == {
        "image tower": 3 * student.image_tower().forward - 2 * patches * width * pixels,
        "text tower": 3 * student.text_tower(16).forward,
        "loss": 6 * BATCH * 32,
        "heads": 6 * 32 * (100 + 50),
    }
    assert made.recomputed == 2 * BATCH * 32
    assert made.executed == made.model + made.recomputed


def test_step_when_in_parts_then_a_forward_pass_of_towers_and_heads_more() -> None:
    student = tiny()
    forward = student.image_tower().forward + student.text_tower(16).forward + 2 * 32 * (100 + 50)
    assert flops(in_parts=True).parts == flops().parts
    assert flops(in_parts=True).recomputed == flops().recomputed + forward


def test_step_when_activations_are_recomputed_then_less_than_a_forward_pass_more() -> None:
    student, again = tiny(), flops(activationCheckpointing=True).recomputed - flops().recomputed
    forward = student.image_tower().forward + student.text_tower(16).forward
    assert 0.5 * forward < again < forward  # the last product of a block is not needed, nor what lies outside of blocks


def test_step_when_the_image_tower_is_locked_then_its_forward_pass_alone() -> None:
    assert flops(lockImageTower=True).parts["image tower"] == tiny().image_tower().forward


def test_step_when_the_locked_tower_has_a_projection_then_that_alone_is_trained() -> None:
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    config = {**TINY, "vision_cfg": vision}
    projection = 2 * 256 * 32
    locked, free = (CountedStudent(config, locked=locked).image_tower() for locked in (True, False))
    assert locked.forward == free.forward
    assert locked.both == locked.forward + projection  # of its weights: no gradient is asked for below it
    assert free.both > 2 * free.forward


def test_operations_when_the_tower_is_locked_then_no_backward_pass_of_it() -> None:
    tokens = torch.zeros(1, 16, dtype=torch.long)
    tokens[:, 15] = 49407
    locked, free = (MfuMeter(TINY, 1e12, locked=locked).operations(tokens) for locked in (True, False))
    tower = tiny().image_tower()
    assert free - locked == tower.both - tower.forward


def test_step_when_features_are_stored_then_no_pass_of_the_tower() -> None:
    tokens = torch.zeros(1, 16, dtype=torch.long)
    tokens[:, 15] = 49407
    stored = MfuMeter(TINY, 1e12, locked=True, stored=True).operations(tokens)
    assert stored == tiny().text_tower(16).both
    assert flops(lockImageTower=True, features="Stored").parts["image tower"] == 0


def test_step_when_activations_of_a_locked_student_are_recomputed_then_those_of_the_text_alone() -> None:
    again = flops(lockImageTower=True, activationCheckpointing=True).recomputed - flops().recomputed
    assert 0.5 * tiny().text_tower(16).forward < again < tiny().text_tower(16).forward


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("Some card", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", 65),
        ("NVIDIA A10G", 70),
    ],
)
def test_peak_when_the_card_is_known_then_its_data_sheets(name: str, tera: float | None) -> None:
    assert peak_flops(name) == (None if tera is None else tera * 1e12)


def test_operations_when_vit_b_32_then_open_clips_own_count() -> None:
    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    assert config is not None
    meter = MfuMeter(config, 1e12)
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[:, 76] = 49407
    of_pixels = 2 * 49 * 768 * 3 * 32 * 32
    whole = meter.operations(tokens) / 2
    assert (whole + of_pixels) / 3 == pytest.approx(14.78e9, rel=1e-3)  # its docs/model_profile.csv
    tokens[:, 76], tokens[:, 15] = 0, 49407
    assert meter.operations(tokens) / 2 < 0.72 * whole
    assert meter.percent(3e11, 1.0) == pytest.approx(30)
