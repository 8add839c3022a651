"""The arithmetic of `diht estimate` against known numbers, CPUs that feed a card, and the card that a label names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diht_k8s.api.documents import load
from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.estimate.estimate import (
    cpus_needed,
    estimate,
    starved,
    teacher_width,
    warnings_of,
)
from diht_k8s.stages.train.estimate.footprint import Moment, Placement, Sizes, Trace, rank_memory
from diht_k8s.stages.train.estimate.gpus import GPUS, gpu_of, name_of_product, peak_flops
from diht_k8s.stages.train.estimate.memory_trace import TracedStudent
from diht_k8s.stages.train.flops import MfuMeter, PairFlops, StepWork
from tests.recipe.train.small_run import TINY
from tests.unit.api.documents import TRAIN, run_over

pytestmark = pytest.mark.usefixtures("traced_once")
SAMPLES = Path(__file__).parents[4] / "manifests" / "samples"
RESNET = {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
SIZES = Sizes(1000, (100,) * 10, ((100,) * 10,), 0, 8, 4, 16, 0)
BUCKET = 4 * 250
"""Bytes of a bucket: a quarter of the parameters."""
TRACE = Trace(4, 500, tuple(Moment(9000 - 800 * number, 400 * number) for number in range(11)))


def run(*, pods: Any = None, label: Any = None, **train: Any) -> DihtRun:
    settings = {**TRAIN, "model": None, "modelConfig": TINY, "samples": 1000, "batchSize": 64, **train}
    others = {**({"label": label, "filter": {}} if label else {}), **({"pods": {"image": "i", **pods}} if pods else {})}
    return run_over("a.tar", "runs/a", train=settings, **others)


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-16", 149_620_737), ("ViT-L-14", 427_616_513)])
def test_parameters_are_the_known_ones(name: str, parameters: int) -> None:
    train = Train.model_validate({"model": name, "samples": 1})
    assert TracedStudent(train, num_objects=0, num_attributes=0).sizes.parameters == parameters


def test_network_of_timm_whose_rates_of_dropping_are_read_when_it_is_made_is_traced() -> None:
    tower = {"timm_model_name": "convnext_atto", "timm_model_pretrained": False, "timm_proj": "linear"}
    config = {**TINY, "vision_cfg": {**tower, "timm_pool": "avg", "image_size": 64}}
    train = Train.model_validate({"modelConfig": config, "samples": 1, "batchSize": 4})
    student = TracedStudent(train, num_objects=0, num_attributes=0)
    assert student.trace(2).forward > 0


@pytest.mark.parametrize(
    ("stage", "world", "states", "master"), [(0, 1, 8000, 0), (0, 4, 8000, 0), (1, 4, 2000, 1000), (2, 4, 2000, 1000)]
)
def test_zero_divides_optimiser_states(stage: int, world: int, states: int, master: int) -> None:
    made = rank_memory(SIZES, TRACE, Placement(world, 4, 4, stage, "fp32", "None", ema=False))
    assert made.device["optimiser states"] == states
    assert made.device.get("fp32 master weights", 0) == master


@pytest.mark.parametrize(
    ("stage", "world", "reduction", "buckets"),
    [
        (1, 1, "fp32", BUCKET),
        (1, 2, "fp32", 2 * BUCKET),
        (2, 1, "fp32", BUCKET),
        (2, 2, "bf16", 2 * BUCKET),
        (3, 2, "fp32", BUCKET),
        (3, 2, "bf16", BUCKET // 2 + BUCKET),
    ],
)
def test_buckets_are_those_of_deepspeed(stage: int, world: int, reduction: str, buckets: int) -> None:
    made = rank_memory(SIZES, TRACE, Placement(world, 4, 4, stage, "bf16", "None", ema=False, reduction=reduction))
    assert made.device["communication buckets"] == buckets


@pytest.mark.parametrize(("precision", "value"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_images_are_normalised_by_micro_batch_in_the_training_precision(precision: str, value: int) -> None:
    made = rank_memory(SIZES, TRACE, Placement(1, 8, 4, 0, precision, "None", ema=False))
    pixels, tokens = 3 * 8 * 8, 4 * 8
    assert made.device["batch"] == 2 * 8 * (pixels + tokens) + 4 * pixels * value
    one = rank_memory(SIZES, TRACE, Placement(1, 8, 4, 0, precision, "None", ema=False, batches=1))
    assert one.device["batch"] == made.device["batch"] - 8 * (pixels + tokens)


def test_trace_has_the_largest_activations_since_each_gradient() -> None:
    student = TracedStudent(Train.model_validate({"modelConfig": TINY, "samples": 1}), num_objects=0, num_attributes=0)
    sizes, moments = student.sizes, student.trace(2).backward
    finished = [moment.gradients for moment in moments]
    assert finished == sorted(set(finished))
    assert finished[-1] == 4 * sizes.trained == 4 * sum(sum(group) for group in sizes.groups)
    assert len(finished) == len(sizes.trained_sizes) + 1


def test_locked_tower_has_no_states_at_any_stage_and_is_held_whole_by_each_rank() -> None:
    train = Train.model_validate({"modelConfig": TINY, "samples": 1, "lockImageTower": True, "microBatchSize": 4})
    student = TracedStudent(train, num_objects=0, num_attributes=0)
    free = TracedStudent(train.model_copy(update={"lock_image_tower": False}), num_objects=0, num_attributes=0)
    sizes = student.sizes
    assert sizes.parameters == sizes.trained == free.sizes.parameters - sizes.locked
    for stage in range(4):
        made = rank_memory(sizes, student.trace(4), Placement(2, 4, 4, stage, "fp32", "None", ema=True))
        shards = 2 if stage else 1
        assert made.device["locked image tower"] == 4 * sizes.locked
        assert made.device["optimiser states"] == 2 * 4 * -(-sizes.trained // shards)
        assert made.device["EMA"] == 4 * -(-sizes.trained // shards)


def test_locked_tower_at_its_widest_is_a_phase() -> None:
    vision = {"image_size": 224, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    train = {"modelConfig": {**TINY, "vision_cfg": vision}, "samples": 1, "lockImageTower": True}
    student = TracedStudent(Train.model_validate(train), num_objects=0, num_attributes=0)
    made = rank_memory(student.sizes, student.trace(8), Placement(1, 8, 8, 0, "fp32", "None", ema=False))
    tokens = 28**2 + 1
    assert made.phase == "locked image tower"
    assert made.device["activations"] >= 4 * 8 * tokens * 4 * 64  # the widest layer of a block


@pytest.mark.parametrize(("validation", "held"), [(None, False), ({"shards": ["a.tar"]}, True)])
def test_stored_features_come_in_place_of_pixels_and_of_the_tower(validation: object, held: bool) -> None:
    train = {"modelConfig": TINY, "samples": 1, "lockImageTower": True, "features": "Stored", "validation": validation}
    student = TracedStudent(Train.model_validate(train), num_objects=0, num_attributes=0)
    made = rank_memory(student.sizes, student.trace(4), Placement(1, 8, 4, 0, "fp32", "None", ema=False))
    width, tokens = 32, 16 * 8
    assert made.device["batch"] == width * (2 * 2 * 8 + 4 * 4) + 2 * 8 * tokens
    assert ("locked image tower" in made.device) is held


def test_offload_moves_states_to_the_host() -> None:
    made = rank_memory(SIZES, TRACE, Placement(2, 4, 4, 1, "fp32", "Optimizer", ema=False))
    assert "optimiser states" not in made.device
    assert made.offloaded == 4 * 500 * 4


@pytest.mark.parametrize(
    ("model", "width"), [(None, 0), ("open_clip/ViT-B-32", 512), ("open_clip/ViT-L-14", 768), ("a run's labels", None)]
)
def test_teachers_embeddings_are_as_wide_as_its_model_has_them_or_left_out_with_a_note(
    model: str | None, width: int | None
) -> None:
    distilled = {"mode": "Disabled", **({} if model is None else {"embeddings": {}})}
    label = {"teacher": {"model": model, "textEmbeddings": True}} if model and width else None
    labels = {"labels": "labels/one"} if model and not width else {}
    document = run(distillation=distilled, label=label, **labels)
    assert teacher_width(document) == width
    made = estimate(document, "H100", largest=False)
    assert ("loss of embeddings" in made.work.parts) is bool(width)
    assert [note for note in made.notes if "teacher's embeddings" in note] == (
        ["the teacher's embeddings are not known here: their loss is left out (label.teacher.model open_clip/NAME)"]
        if width is None
        else []
    )


@pytest.mark.parametrize(("model", "largest"), [(TINY, 61), (RESNET, 61)])
def test_the_largest_micro_batch_is_of_any_size(model: dict[str, object], largest: int) -> None:
    assert estimate(run(modelConfig=model, batchSize=61), "H100").largest_micro_batch == largest


@pytest.mark.parametrize(("nodes", "train"), [(64, {}), (1, {"microBatchSize": 1})])
def test_a_single_row_at_a_time_is_estimated_like_two(nodes: int, train: dict[str, Any]) -> None:
    made = estimate(run(**train), "L4", nodes=nodes, largest=False)
    assert made.micro_batch == 1
    settings = Train.model_validate({"modelConfig": TINY, "samples": 1})
    student = TracedStudent(settings, num_objects=0, num_attributes=0)
    one, two, three = (student.trace(rows).forward for rows in (1, 2, 3))
    assert two - one == pytest.approx(three - two, rel=0.02)


@pytest.mark.parametrize(
    ("stage", "world", "in_parts", "gradients", "copies"),
    [
        (0, 1, False, 1600, 0),
        (0, 2, False, 1600, 1600),
        (0, 2, True, 4000, 1600),
        (1, 2, False, 1600, BUCKET),
        (1, 2, True, 4000, BUCKET),
        (2, 2, False, 1600, BUCKET),
        (2, 2, True, 4000, BUCKET),
        (3, 2, False, BUCKET, BUCKET),
    ],
)
def test_gradients_and_copies_are_those_that_each_zero_stage_holds_at_the_peak(
    stage: int, world: int, in_parts: bool, gradients: int, copies: int
) -> None:
    falling = Trace(4, 0, (Moment(0, 0), Moment(90_000, 1600)))
    placed = Placement(world, 8, 4 if in_parts else 8, stage, "fp32", "None", ema=False)
    made = rank_memory(SIZES, falling, placed)
    held = made.device["unsummed gradients" if stage == 3 else "gradients"]
    assert (held, made.device.get("reduced copies", 0)) == (gradients, copies)


@pytest.mark.parametrize(("nodes", "rows"), [(2, 32), (3, 22)])
def test_time_is_that_of_all_rows_of_a_rank_at_the_given_share_of_the_peak(nodes: int, rows: int) -> None:
    made = estimate(run(), "L4", nodes=nodes, mfu=0.5, largest=False)
    seconds = rows * made.work.executed / (0.5 * GPUS["L4"].half_tflops * 1e12)
    assert made.micro_batch == rows
    assert (made.step_seconds, made.days) == pytest.approx((seconds, 1000 / 64 * seconds / 86400))
    surplus = [note for note in made.notes if "hold no pair" in note]
    assert surplus == (
        [] if rows == 32 else ["3 processes take 22 rows each, 66 for a batch of 64: 3.0% of them hold no pair"]
    )


@pytest.mark.parametrize(
    "train", [{"modelConfig": RESNET, "processesPerNode": 3}, {"modelConfig": RESNET, "microBatchSize": 24}]
)
def test_batch_statistics_of_unequal_parts_are_refused(train: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="batch statistics"):
        estimate(run(**train), "H100")


def estimated(images: float, *, ranks: int = 8, nodes: int = 2) -> Any:
    """An estimate by the images a second that each pod trains."""
    return SimpleNamespace(
        gpu="H100", nodes=nodes, processes_per_node=ranks, batch_size=64, step_seconds=64 / (images * nodes), mfu=0.45
    )


@pytest.mark.parametrize(
    ("images", "size", "cpus"),
    [(8 * 407.9, "mix", 16), (8 * 409, "mix", 24), (8 * 408, "1024x768", 24), (1.0, "mix", 16)],
)
def test_cpus_when_images_a_second_are_known_then_one_for_each_rank_and_its_workers(
    images: float, size: str, cpus: int
) -> None:
    assert cpus_needed(estimated(images), size) == cpus


@pytest.mark.parametrize(
    ("cpus", "workers", "warns"),
    [
        (88, None, False),
        (87.9, None, True),
        (None, None, False),
        (None, 10, False),
        (None, 9, True),
        (88, 9, True),
        (40, 10, True),
        (1, 0, True),
    ],
)
def test_pod_when_it_has_fewer_cpus_than_its_cards_need_then_one_line(
    cpus: float | None, workers: int | None, warns: bool
) -> None:
    lines = starved(estimated(8 * 4079.9), cpus, workers)
    assert len(lines) == int(warns)
    assert all("ask for cpu 88" in line and "of 32,639 images/s" in line for line in lines)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H100-PCIe", "H100-PCIe"),
        ("nvidia-h100-80gb", "H100"),
        ("NVIDIA-H200", "H200"),
        ("nvidia-h200-141gb", "H200"),
        ("NVIDIA-B200", "B200"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40"),
        ("nvidia-tesla-a100", "A100-40"),
        ("nvidia-a100-80gb", "A100-80"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-L4", "L4"),
        ("NVIDIA-A10G", "A10G"),
        ("Tesla-V100-SXM2-16GB", None),
        ("Tesla-T4", "T4"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", None),
        ("NVIDIA-L40", None),
        ("NVIDIA-H200-NVL", None),
        ("NVIDIA-GeForce-RTX-3090", "RTX-3090"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 5090", "RTX-5090"),
        ("NVIDIA-RTX-A6000", "RTX-A6000"),
        ("NVIDIA-RTX-6000-Ada-Generation", "RTX-6000-Ada"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000"),
        ("NVIDIA-GeForce-RTX-3090-Ti", None),
        ("NVIDIA-GeForce-RTX-4090-D", None),
        ("NVIDIA-GeForce-RTX-4090-Laptop-GPU", None),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Max-Q-Workstation-Edition", None),
        ("Quadro-RTX-6000", None),
    ],
)
def test_card_when_a_label_names_it_then_found(label: str, name: str | None) -> None:
    assert name_of_product(label) == name
    assert name is None or name in GPUS


@pytest.mark.parametrize("given", ["RTX4090", "rtx-4090", "RTX 4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090"])
def test_card_when_it_is_named_as_people_do_then_found(given: str) -> None:
    assert gpu_of(given).name == "RTX-4090"


def test_samples_when_they_train_on_8_gpus_then_their_cpus_feed_8_h100() -> None:
    runs = [load(path.read_text(), name=path.name) for path in sorted(SAMPLES.glob("*.yaml"))]
    asked = {}
    for run in runs:
        if run.spec.train is None:
            continue
        resources = merged(run.spec.pods, run.spec.train.pods).resources
        if resources.get("nvidia.com/gpu") == 8:
            asked[run.spec.train.model, run.spec.train.micro_batch_size, resources["cpu"]] = run
    assert [key[0] for key in asked] == ["ViT-B-16"]  # one estimate answers for all
    assert [warnings_of(run, "H100") for run in asked.values()] == [[]]


BATCH = 128
CLASSES = {"num_objects": 100, "num_attributes": 50}


def settings(**train: Any) -> Train:
    return Train.model_validate({"modelConfig": TINY, "samples": 1, "batchSize": BATCH, **train})


@functools.cache
def flops(length: int = 16) -> PairFlops:
    return StepWork(settings(), **CLASSES).of_pair(length)


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
