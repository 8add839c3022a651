"""The arithmetic of `diht estimate`, against known numbers ."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import Any

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.stages.train.estimate.estimate import (
    ASSUMED_CPUS,
    WORKER_BYTES,
    Pace,
    _below,
    estimate,
    losses_seconds,
    pace_of,
    teacher_width,
)
from diht_k8s.stages.train.estimate.footprint import Placement, Sizes, Trace, rank_memory
from diht_k8s.stages.train.estimate.gpus import GPUS
from diht_k8s.stages.train.estimate.loss_time import contrastive_cost, contrastive_seconds, embedding_seconds
from diht_k8s.stages.train.estimate.memory_trace import TracedStudent
from diht_k8s.stages.train.estimate.reduction import Moment
from diht_k8s.stages.train.flops import PairFlops

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
RESNET = {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
SIZES = Sizes(1000, (100,) * 10, ((100,) * 10,), 0, 8, 4, 16, 0)
BUCKET = 4 * 250
"""Bytes of a bucket: a quarter of the parameters."""
TRACE = Trace(4, 500, tuple(Moment(9000 - 800 * number, 400 * number) for number in range(11)))


def run(*, pods: Any = None, label: Any = None, **train: Any) -> DihtRun:
    return DihtRun.model_validate(
        {
            "apiVersion": "diht.dev/v1alpha1",
            "kind": "DihtRun",
            "metadata": {"name": "a"},
            "spec": {
                "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "runs/a"},
                "train": {
                    "modelConfig": TINY,
                    "samples": 1000,
                    "batchSize": 64,
                    "distillation": {"mode": "Disabled"},
                    **train,
                },
                **({"label": label, "filter": {}} if label else {}),
                **({"pods": {"image": "i", **pods}} if pods else {}),
            },
        }
    )


@pytest.mark.parametrize(("name", "parameters"), [("ViT-B-16", 149_620_737), ("ViT-L-14", 427_616_513)])
def test_parameters_are_the_known_ones(name: str, parameters: int) -> None:
    train = Train.model_validate({"model": name, "samples": 1})
    assert TracedStudent(train, num_objects=0, num_attributes=0).sizes.parameters == parameters


@pytest.mark.parametrize("network", ["convnext_atto", "regnety_002"])
def test_network_of_timm_whose_rates_of_dropping_are_read_when_it_is_made_is_traced(network: str) -> None:
    tower = {"timm_model_name": network, "timm_model_pretrained": False, "timm_proj": "linear"}
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


@pytest.mark.parametrize(
    ("world", "reduction", "copied"), [(1, "fp32", 0), (1, "bf16", 2 * 200 + 4 * 200), (2, "fp32", 2 * 4 * 200)]
)
def test_zero_0_copies_two_buckets_where_it_sums(world: int, reduction: str, copied: int) -> None:
    flat = Trace(4, 500, tuple(Moment(9000, 400 * number) for number in range(11)))
    made = rank_memory(SIZES, flat, Placement(world, 4, 4, 0, "bf16", "None", ema=False, reduction=reduction))
    assert made.device.get("reduced copies", 0) == copied  # two parameters of 100 fit into a bucket
    assert "communication buckets" not in made.device


@pytest.mark.parametrize(("precision", "value"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_images_are_normalised_by_micro_batch_in_the_training_precision(precision: str, value: int) -> None:
    made = rank_memory(SIZES, TRACE, Placement(1, 8, 4, 0, precision, "None", ema=False))
    pixels, tokens = 3 * 8 * 8, 4 * 8
    assert made.device["batch"] == 2 * 8 * (pixels + tokens) + 4 * pixels * value
    one = rank_memory(SIZES, TRACE, Placement(1, 8, 4, 0, precision, "None", ema=False, batches=1))
    assert one.device["batch"] == made.device["batch"] - 8 * (pixels + tokens)


def test_step_of_zero_takes_the_norm_in_fp64_and_joins_the_gradients() -> None:
    still = Trace(4, 0, (Moment(0, 0), Moment(0, 4000)))
    sizes = Sizes(1000, (1000,), ((1000,),), 0, 8, 4, 16, 0)
    made = rank_memory(sizes, still, Placement(1, 2, 2, 2, "fp32", "None", ema=False))
    assert made.phase == "optimiser step"
    assert (made.device["gradients"], made.device["gradient copies"]) == (4 * 1000, 8 * 1000)


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


def test_the_largest_micro_batch_fits() -> None:
    made = estimate(run(), "L4")
    assert made.fits
    assert made.largest_micro_batch == 64


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_pace_is_that_of_the_layers_at_a_share_of_the_peak_and_of_the_losses_beside_it(ranks: int) -> None:
    work = PairFlops({"image tower": 60, "text tower": 30, "heads": 0, "loss": 10}, {"image tower": 10, "loss": 5})
    made = pace_of(work, 3.0, peak=200.0, utilisation=0.5, batch=64, ranks=ranks, samples=640)
    step = -(-64 // ranks) * 100 / (0.5 * 200.0) + 3.0
    expected = Pace(
        64 / step, step, 3.0, 64 * 100 / (step * ranks * 200.0), 10 * step / 86400, 10 * step * ranks / 3600
    )
    assert asdict(made) == pytest.approx(asdict(expected))


def test_losses_are_of_a_ranks_pairs_beside_all_of_the_batch() -> None:
    made, card = estimate(run(batchSize=66), "L4", nodes=3, largest=False), GPUS["L4"]
    assert made.pace.loss_seconds == losses_seconds(card, 22, 66, 32, 0)
    contrastive = contrastive_seconds(card, contrastive_cost(card, 22, 66, 32))
    assert losses_seconds(card, 22, 66, 32, 48) == contrastive + embedding_seconds(card, 22, 66, 32, 48)


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


ASSUMED = f"pods.resources names no cpu: {ASSUMED_CPUS} for each process are assumed, which its loader workers follow"


@pytest.mark.parametrize(
    ("cpu", "train", "workers", "notes"),
    [
        ("96", {}, 11, []),
        ("16500m", {}, 1, []),
        (None, {}, ASSUMED_CPUS - 1, [ASSUMED]),
        (None, {"loaderWorkers": 3}, 3, []),
        ("96", {"loaderWorkers": 3}, 3, []),
        ("1000", {"batchSize": 64}, 8, []),
        (None, {"lockImageTower": True, "features": "Stored"}, 0, []),
    ],
    ids=["cpus", "few", "none named", "asked for", "asked for beside cpus", "no more than pairs of a rank", "stored"],
)
def test_host_memory_holds_the_loader_workers_that_the_training_would_start(
    cpu: str | None, train: dict[str, object], workers: int, notes: list[str]
) -> None:
    pods = {} if cpu is None else {"resources": {"cpu": cpu}}
    made = estimate(run(pods=pods, **{"batchSize": 512, "processesPerNode": 8, **train}), "H100", largest=False)
    assert made.host_memory["loader workers"] == 8 * workers * WORKER_BYTES
    assert [note for note in made.notes if "pods.resources" in note] == notes


@pytest.mark.parametrize(("workers", "made_ahead"), [(0, 0), (2, 5)])
def test_host_memory_holds_the_batches_on_their_way_and_page_locked_ones_rounded_up(
    workers: int, made_ahead: int
) -> None:
    made = estimate(run(loaderWorkers=workers), "H100", largest=False).host_memory
    pixels, tokens = 64 * 3 * 32**2, 64 * 16 * 8  # four batches fit into what may wait
    assert made["batches in the making"] == (made_ahead + 1) * (pixels + tokens)
    assert made["page-locked batches"] == (4 + 2) * 2**18
    assert 2**17 < pixels < 2**18


@pytest.mark.parametrize(
    ("gpu", "options", "train", "message"),
    [
        ("H900", {}, {}, "H100"),
        ("H100", {"utilisation": 0.0}, {}, "--mfu"),
        ("H100", {"nodes": 65}, {}, r"\(64 pairs, 65 processes\)"),
        (
            "H100",
            {"nodes": 3},
            {"modelConfig": RESNET},
            "batch statistics .* make train.batchSize 64 a multiple of the 3 processes",
        ),
        (
            "H100",
            {},
            {"modelConfig": RESNET, "microBatchSize": 24},
            "batch statistics .* make train.microBatchSize 24 a divisor of the 64 pairs",
        ),
        ("T4", {}, {}, "bf16 is not supported"),
    ],
)
def test_bad_input_is_a_user_error(gpu: str, options: dict, train: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(run(**train), gpu, **options)


@pytest.mark.parametrize(("model", "largest"), [(TINY, 61), (RESNET, 61)])
def test_the_largest_micro_batch_is_of_any_size(model: dict[str, object], largest: int) -> None:
    assert estimate(run(modelConfig=model, batchSize=61), "H100").largest_micro_batch == largest


@pytest.mark.parametrize(
    ("nodes", "rows", "says"),
    [(2, 32, None), (3, 22, "3 processes take 22 rows each, 66 for a batch of 64: 3.0% of them hold no pair")],
)
def test_rows_that_hold_no_pair_are_told(nodes: int, rows: int, says: str | None) -> None:
    made = estimate(run(), "L4", nodes=nodes, largest=False)
    assert made.micro_batch == rows
    assert [note for note in made.notes if "hold no pair" in note] == ([] if says is None else [says])


@pytest.mark.parametrize(("nodes", "train"), [(64, {}), (1, {"microBatchSize": 1})])
def test_a_single_row_at_a_time_is_estimated_like_two(nodes: int, train: dict[str, Any]) -> None:
    made = estimate(run(**train), "L4", nodes=nodes, largest=False)
    assert made.micro_batch == 1
    settings = Train.model_validate({"modelConfig": TINY, "samples": 1})
    student = TracedStudent(settings, num_objects=0, num_attributes=0)
    one, two, three = (student.trace(rows).forward for rows in (1, 2, 3))
    assert two - one == pytest.approx(three - two, rel=0.02)


@pytest.mark.parametrize(
    ("guess", "local", "divisors", "expected"),
    [
        (64, 64, False, [64, 62, 60]),
        (5, 64, False, [5, 4, 3, 2, 1]),
        (13, 64, True, [8, 4, 2, 1]),
        (13, 26, True, [13, 2, 1]),
        (0, 64, False, []),
    ],
)
def test_micro_batches_are_tried_from_the_guess_down(
    guess: int, local: int, divisors: bool, expected: list[int]
) -> None:
    assert list(itertools.islice(_below(guess, local, divisors), len(expected) if guess == local else None)) == expected


def test_a_run_without_training_is_refused() -> None:
    document = run().model_dump(by_alias=True)
    document["spec"]["train"] = None
    document["spec"]["filter"] = {"minActions": 0}
    with pytest.raises(UserError, match="no train stage"):
        estimate(DihtRun.model_validate(document), "H100")
