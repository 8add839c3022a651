"""Counted operations, against a real model, known numbers and closed forms; and the utilisation that follows from
them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.estimate.gpus import peak_flops
from diht_k8s.stages.train.flops import CountedStudent, MfuMeter, PairFlops, StepWork
from diht_k8s.stages.train.model.student import Student

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BATCH, PATCHES, WIDTH = 128, 16, 64
PIXELS = 2 * PATCHES * WIDTH * 3 * 8 * 8
"""Of the first layer, whose pixels need no gradient."""
CLASSES = {"num_objects": 100, "num_attributes": 50}


def settings(**train: Any) -> Train:
    return Train.model_validate({"modelConfig": TINY, "samples": 1, "batchSize": BATCH, **train})


@functools.cache
def flops(length: int = 16) -> PairFlops:
    return StepWork(settings(), **CLASSES).of_pair(length)


@functools.cache
def tiny() -> CountedStudent:
    return CountedStudent(settings(), num_objects=0, num_attributes=0)


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
    assert made.parts == {
        "image tower": 3 * student.image_tower().forward - PIXELS,
        "text tower": 3 * student.text_tower(16).forward,
        "heads": 6 * 32 * (100 + 50),
        "loss": 6 * BATCH * 32,
    }
    assert {name: again for name, again in made.recomputed.items() if again} == {"loss": 2 * BATCH * 32}
    assert made.executed == made.model + 2 * BATCH * 32


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


def batch(lengths: Sequence[int], *, context: int = 16, on_device: bool = False) -> Batch:
    """Rank 0's part, of captions with these numbers of tokens."""
    tokens_BT = torch.zeros(len(lengths), context, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens_BT[row, length - 1] = 49407
    known = list(lengths) if on_device else None
    return Batch(torch.zeros(0), tokens_BT, torch.zeros(0), None, [], {}, lengths=known)


def meter(*, world: int = 1, micro_batch: int = 4, peak: float = 1e12, **train: Any) -> MfuMeter:
    work = StepWork(settings(**train), **CLASSES)
    return MfuMeter(work, peak, batch_size=BATCH, world=world, micro_batch=micro_batch)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("lengths", "micro_batch", "cut"),
    [((5, 16, 3, 7), 4, (16, 16, 16, 16)), ((5, 16, 3, 7), 2, (16, 16, 7, 7)), ((5, 4, 3), 2, (5, 5, 3))],
)
def test_operations_are_those_of_the_batchs_pairs_as_long_as_the_longest_caption_of_their_micro_batch(
    lengths: tuple[int, ...], micro_batch: int, cut: tuple[int, ...], on_device: bool
) -> None:
    found = meter(micro_batch=micro_batch).operations(batch(lengths, on_device=on_device))
    assert found == pytest.approx(BATCH * sum(flops(each).model for each in cut) / len(cut), rel=1e-12)


def test_operations_when_another_pooling_reads_the_padding_then_of_the_whole_context() -> None:
    model = {**TINY, "text_cfg": {**TINY["text_cfg"], "pool_type": "last"}}
    found = meter(modelConfig=model).operations(batch((5, 3)))
    assert found == BATCH * StepWork(settings(modelConfig=model), **CLASSES).of_pair(16).model


@pytest.mark.parametrize("world", [1, 3])
def test_utilisation_is_of_all_devices_and_rows_without_a_pair_are_no_work(world: int) -> None:
    found = meter(world=world, peak=1e9)
    rows = -(-BATCH // world)
    operations = found.operations(batch((16,) * rows))
    assert operations == BATCH * flops().model
    assert found.percent(operations, 2.0) == pytest.approx(100 * BATCH * flops().model / (2.0 * world * 1e9))


def test_operations_when_vit_b_32_then_open_clips_own_count() -> None:
    work = StepWork(
        Train.model_validate({"model": "ViT-B-32", "samples": 1, "batchSize": 2}), num_objects=0, num_attributes=0
    )
    of_pixels = 2 * 49 * 768 * 3 * 32 * 32
    whole, short = (sum(work.of_pair(n).parts[f"{side} tower"] for side in ("image", "text")) for n in (77, 16))
    assert (whole + of_pixels) / 3 == pytest.approx(14.78e9, rel=1e-3)  # its docs/model_profile.csv
    assert short < 0.72 * whole
