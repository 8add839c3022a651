"""The arithmetic of `diht estimate`, against known numbers and the counter of torch on a real model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.recipe.train.estimate.estimate import estimate
from diht_k8s.recipe.train.estimate.footprint import Moment, Placement, Sizes, Trace, rank_memory
from diht_k8s.recipe.train.estimate.gpus import GPUS, gpu_of
from diht_k8s.recipe.train.estimate.trace import TracedStudent
from diht_k8s.recipe.train.health import PEAK_TFLOPS
from diht_k8s.recipe.train.model.student import Student

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIZES = Sizes(1000, 1000, 100, 0, 0, 8, 4, 16, 0)
TRACE = Trace(4, 500, (Moment(900, 100), Moment(200, 4000)))


def run(**train: object) -> DihtRun:
    return DihtRun.model_validate({
        "apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"},
        "spec": {
            "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "runs/a"},
            "train": {"modelConfig": TINY, "samples": 1000, "batchSize": 64, "distillation": {"mode": "Disabled"}, **train},
        },
    })  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-16", 149_620_737), ("ViT-L-14", 427_616_513)])
def test_parameters_are_the_known_ones(name: str, parameters: int) -> None:
    train = Train.model_validate({"model": name, "samples": 1})
    assert TracedStudent(train, num_objects=0, num_attributes=0).sizes.parameters == parameters


def test_flops_are_those_of_the_real_model_forward() -> None:
    traced = TracedStudent(Train.model_validate({"modelConfig": TINY, "samples": 1}), num_objects=0, num_attributes=0)
    model = Student(TINY)
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        model.clip.encode_image(torch.zeros(1, 3, 32, 32))
        model.text_features(torch.zeros(1, 16, dtype=torch.long))
    assert sum(traced.forward_flops()) == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("stage", "world", "states", "master"), [(0, 1, 8000, 0), (0, 4, 8000, 0), (1, 4, 2000, 1000), (2, 4, 2000, 1000)]
)
def test_zero_divides_optimiser_states(stage: int, world: int, states: int, master: int) -> None:
    made = rank_memory(SIZES, TRACE, Placement(world, 4, 4, stage, "fp32", "None", ema=False))
    assert made.device["optimiser states"] == states
    assert made.device.get("fp32 master weights", 0) == master


def test_offload_moves_states_to_the_host() -> None:
    made = rank_memory(SIZES, TRACE, Placement(2, 4, 4, 1, "fp32", "Optimizer", ema=False))
    assert "optimiser states" not in made.device
    assert made.offloaded == 4 * 500 * 4


def test_the_largest_micro_batch_fits_and_the_pace_scales_with_nodes() -> None:
    one, two = estimate(run(), "L4"), estimate(run(), "L4", nodes=2)
    assert one.fits
    assert one.largest_micro_batch == 64
    assert two.pace.samples_per_second == pytest.approx(2 * one.pace.samples_per_second)


@pytest.mark.parametrize(
    ("gpu", "options", "train", "message"),
    [
        ("H900", {}, {}, "H100"),
        ("H100", {"utilisation": 0.0}, {}, "--mfu"),
        ("H100", {"nodes": 3}, {}, "multiple of the 3 processes"),
        ("T4", {}, {}, "bf16 is not supported"),
    ],
)
def test_bad_input_is_a_user_error(gpu: str, options: dict, train: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(run(**train), gpu, **options)


def test_a_run_without_training_is_refused() -> None:
    document = run().model_dump(by_alias=True)
    document["spec"]["train"] = None
    document["spec"]["filter"] = {"minActions": 0}
    with pytest.raises(UserError, match="no train stage"):
        estimate(DihtRun.model_validate(document), "H100")


def test_peaks_are_those_of_the_metrics() -> None:
    assert {name: gpu_of(name).half_tflops for name in GPUS if name in PEAK_TFLOPS} == {
        name: peak for name, peak in PEAK_TFLOPS.items() if name in GPUS
    }
