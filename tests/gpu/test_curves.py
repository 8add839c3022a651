"""Trainings on one card and on all: each ends on the curve of one process with ZeRO 0 in fp32, whatever is divided; and
all ranks issue their collectives in one order.

Each group of trainings has processes of its own, so that one that breaks its process leaves the others' results.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.stages.train.estimate.gpus import peak_flops
from tests.gpu.devices import devices
from tests.recipe.train.collective_order import first_difference
from tests.recipe.train.small_run import ON_DEVICES, RESNET, VIT, Job, Table, document, lines, make_data, train_in_ranks

STEPS, BATCH, LONG = 8, 32, 16
UNEVEN = 31
"""Pairs of a batch that no number of cards above one divides."""
PARTS = {"microBatchSize": 2}
FIRST_SCALE, TOO_HIGH = 2.0**10, 2.0**17
"""Of fp16. With the first no gradient of this model overflows, so that no step is skipped and the curves can be
compared. With the second some do at first, and more on more ranks: a rank's loss is the mean over its rows.
"""
STATISTICS = {"modelConfig": RESNET, "optimizer": {"lr": 3e-4, "eps": 1e-6}}
"""A ResNet. A value within rounding of a ReLU's kink falls to either side: a lower learning rate keeps the curves
together.
"""
LOCKED = {
    "lockImageTower": True,
    "modelConfig": {
        **VIT,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        },
    },
}
DROPS = {
    "modelConfig": {
        **VIT,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "avg",
            "timm_proj": "mlp",
            "image_size": 160,
            "timm_drop": 0.3,
            "timm_drop_path": 0.6,
            "patch_dropout": 0.25,
        },
    }
}
"""Drops elements, paths and patches."""
Trained = Callable[[str, str], Table]
"""(one or all cards, group) -> the results of its trainings."""
Attempts = list[dict[str, Any]]
"""Settings of each attempt of a training; all but the last are stopped after two steps."""

GROUPS: dict[str, dict[str, Attempts]] = {
    "reference": {"zero 0": [{}]},
    "basic": {
        "zero 1": [{"zeroStage": 1}],
        "zero 2": [{"zeroStage": 2}],
        "micro-batches": [{"zeroStage": 1, **PARTS}],
        "activation checkpointing": [{"activationCheckpointing": True}],
        "workers": [{"loaderWorkers": 2}],
        "workers, unset": [{"loaderWorkers": None}],
        "validation": [{"validation": {"shards": [], "everySamples": 4 * BATCH}}],
        "ema": [{"zeroStage": 1, "ema": 0.9}],
        "resumed": [{"zeroStage": 0}, {"zeroStage": 0}],
        "resumed, other stages": [{"zeroStage": 1}, {"zeroStage": 2}, {"zeroStage": 0}],
    },
    "batch statistics": {
        "batch statistics": [STATISTICS],
        **{f"batch statistics, zero {stage}": [{**STATISTICS, "zeroStage": stage}] for stage in (1, 2, 3)},
        "resumed, batch statistics": [{**STATISTICS, "zeroStage": 1}] * 2,
    },
    "rows": {
        "uneven": [{"batchSize": UNEVEN}],
        "uneven, parts": [{"batchSize": UNEVEN, "zeroStage": 1, **PARTS}],
        "uneven, zero 3": [{"batchSize": UNEVEN, "zeroStage": 3}],
        "drops": [DROPS],
        "drops, parts": [{**DROPS, "zeroStage": 2, "microBatchSize": 4, "activationCheckpointing": True}],
        "locked tower": [LOCKED],
        "locked tower, zero 1": [{**LOCKED, "zeroStage": 1}],
        "resumed, locked tower, zero 3": [{**LOCKED, "zeroStage": 3}] * 2,
    },
    "bf16 sums": {
        **{f"bf16 sums, zero {stage}": [{"gradientReduction": "bf16", "zeroStage": stage}] for stage in range(4)},
    },
    "offload": {
        "zero 2, offload": [{"zeroStage": 2, "offload": "Optimizer"}],
        "resumed, zero 2, offload": [{"zeroStage": 2, "offload": "Optimizer"}] * 2,
    },
    "zero 3": {
        "zero 3": [{"zeroStage": 3}],
        "zero 3, micro-batches": [{"zeroStage": 3, **PARTS}],
        "zero 3, offload": [{"zeroStage": 3, "offload": "Parameters"}],
        "resumed, zero 3": [{"zeroStage": 3, "ema": 0.9}] * 2,
    },
    "16 bits": {
        "bf16": [{"precision": "bf16", "zeroStage": 1}],
        "bf16, micro-batches": [{"precision": "bf16", "zeroStage": 0, **PARTS}],
        "fp16": [{"precision": "fp16", "zeroStage": 1}],
        "resumed, fp16": [{"precision": "fp16", "zeroStage": 0}] * 2,
        **{
            f"overflow, zero {stage}": [{"precision": "fp16", "zeroStage": stage, "samples": LONG * BATCH}]
            for stage in (0, 1)
        },
    },
    "compile": {
        "compile": [{"compile": True}],
        "compile, zero 1": [{"compile": True, "zeroStage": 1, **PARTS}],
    },
}
TOLERANCES = {
    "reference": 1e-4,
    "basic": 1e-4,
    "offload": 1e-4,
    "batch statistics": 1e-3,
    "rows": 1e-4,
    "bf16 sums": 2e-2,
    "zero 3": 1e-4,
    "16 bits": 1e-1,
    "compile": 1e-3,
}
REFERENCES = {name: group for group in ("batch statistics", "rows") for name in GROUPS[group] if "," not in name}
"""Trainings that others of their group must follow, as all others follow "zero 0"."""
CASES = [
    pytest.param(group, name, id=name)
    for group, found in GROUPS.items()
    for name in found
    if not name.startswith("overflow")
]
CARDS = ["one", pytest.param("all", marks=pytest.mark.two_gpus)]
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(2400)]  # the reference and a group, each of at most 1,100 s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    make_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    done: dict[tuple[str, str], Any] = {}

    def once(cards: str, group: str) -> Table:
        if (cards, group) not in done:
            try:
                done[cards, group] = train(cards, group)
            except AssertionError as error:  # not again for each test: a hang takes minutes
                done[cards, group] = f"the processes of {group} on {cards} ended with {error}"
        if isinstance(done[cards, group], str):
            pytest.fail(done[cards, group])
        return done[cards, group]

    def train(cards: str, group: str) -> Table:
        place = folder / cards / group
        jobs = {}
        for name, attempts in GROUPS[group].items():
            for number, settings in enumerate(attempts):
                stop = 2 if number < len(attempts) - 1 else None
                run = document(place / name, data=folder / "data", **body(folder, settings))
                fp16 = TOO_HIGH if name.startswith("overflow") else FIRST_SCALE
                fp16 = fp16 if settings.get("precision") == "fp16" else None
                jobs[f"{name} {number}"] = Job(run, stop, fp16_scale=fp16)
        world = 1 if cards == "one" else devices().all
        return train_in_ranks(world, jobs, place / "ranks", program=ON_DEVICES, seconds=1100, **devices().variables)

    return once


def body(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    batch = settings.get("batchSize", BATCH)
    found = {"samples": STEPS * batch, "batchSize": batch, "loaderWorkers": 0, "collectiveTimeoutSeconds": 120}
    if "validation" in settings:
        settings = {"validation": {**settings["validation"], "shards": [f"{folder}/data/made/filter/kept/*.tar"]}}
    return {**found, **settings}


def whole(results: Table, name: str) -> list[dict[str, Any]]:
    """The attempts of a training, which must have ended as they should."""
    attempts = [result for key, result in results.items() if key.rpartition(" ")[0] == name]
    *stopped, last = [attempt["error"] for attempt in attempts]
    assert [error for error in stopped if not (error or "").startswith("143 stopped on request")] == []
    assert last is None, last
    return attempts


def steps_of(attempts: list[dict[str, Any]], key: str) -> list[Any]:
    return [step for attempt in attempts for step in attempt[key]]


@pytest.mark.parametrize("cards", CARDS)
@pytest.mark.parametrize(("group", "name"), CASES)
def test_curve_when_trained_then_that_of_one_process_in_fp32(
    trained: Trained, cards: str, group: str, name: str
) -> None:
    if group == "compile" and not any(map(shutil.which, ("gcc", "clang", "cc"))):
        pytest.skip("no C compiler, which Triton needs")
    like = next((each for each in REFERENCES if each in name), "zero 0")
    (reference,) = whole(trained("one", REFERENCES.get(like, "reference")), like)
    found = whole(trained(cards, group), name)
    assert steps_of(found, "uids") == reference["uids"]
    ours, theirs = (torch.tensor(losses) for losses in (steps_of(found, "losses"), reference["losses"]))
    assert ours.shape == (STEPS, 5)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[group])


@pytest.mark.parametrize("cards", CARDS)
def test_ranks_when_trained_then_each_on_its_own_device_over_the_devices_backend(trained: Trained, cards: str) -> None:
    results = trained(cards, "basic")
    world = 1 if cards == "one" else devices().all
    expected = [f"cuda:{rank}" for rank in range(world)] if devices().kind == "cuda" else ["cpu"] * world
    assert {(result["backend"], *result["devices"]) for result in results.values()} == {(devices().backend, *expected)}


def test_training_when_the_loss_falls_then_the_curves_say_something(trained: Trained) -> None:
    (reference,) = whole(trained("one", "reference"), "zero 0")
    first, *_, last = reference["losses"]
    assert last[0] < first[0] - 0.1


@pytest.mark.two_gpus
@pytest.mark.parametrize("group", [group for group in GROUPS if group != "compile"])
def test_collectives_when_issued_then_in_one_order_on_all_ranks(trained: Trained, group: str) -> None:
    for name, result in trained("all", group).items():
        assert min(len(calls) for calls in result["calls"]) > STEPS, name
        assert first_difference(result["calls"]) is None, name


@pytest.mark.two_gpus
@pytest.mark.parametrize("name", GROUPS["bf16 sums"])
def test_gradients_when_summed_in_bf16_then_they_travel_in_it(trained: Trained, name: str) -> None:
    sums, plain = (
        trained("all", group)[f"{each} 0"]["calls"][0] for group, each in (("bf16 sums", name), ("reference", "zero 0"))
    )
    assert len([call for call in sums if "BFloat16" in call[3]]) >= STEPS
    assert [call for call in plain if "BFloat16" in call[3]] == []


@pytest.mark.parametrize("cards", CARDS)
@pytest.mark.parametrize("stage", [0, 1])
def test_fp16_when_gradients_overflow_then_the_step_is_skipped_the_scale_halved_and_it_learns(
    trained: Trained, cards: str, stage: int
) -> None:
    (found,) = whole(trained(cards, "16 bits"), f"overflow, zero {stage}")
    (reference,) = whole(trained("one", "reference"), "zero 0")
    outcomes = [outcome for outcome, _ in found["updates"]]
    assert outcomes[0] == "OVERFLOW"
    assert outcomes[LONG // 2 :] == ["MADE"] * (LONG // 2)
    halved = itertools.accumulate(
        outcomes, lambda scale, each: scale / 2 if each == "OVERFLOW" else scale, initial=TOO_HIGH
    )
    assert [scale for _, scale in found["updates"]] == list(halved)[1:]
    assert float(found["weights"]["adam_step"]) == outcomes.count("MADE")
    losses, others = ([step[0] for step in result["losses"]] for result in (found, reference))
    assert losses[0] == pytest.approx(others[0], abs=TOLERANCES["16 bits"])
    assert losses[-1] < losses[0] - 0.1
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("cards", CARDS)
def test_held_out_loss_when_measured_then_that_of_one_process(trained: Trained, folder: Path, cards: str) -> None:
    trained("one", "basic"), trained(cards, "basic")
    found, reference = (
        [line for line in lines(folder / place / "basic", "validation") if "validation_loss" in line]
        for place in (cards, "one")
    )
    assert [line["step"] for line in found] == [4, 8]
    for line, other in zip(found, reference, strict=True):
        for key in ("validation_loss", "validation_image_to_text_top1", "validation_text_to_image_top1"):
            # a rounding may change which of two equal pairs comes first
            assert line[key] == pytest.approx(other[key], abs=1e-4 if key == "validation_loss" else 0.02)


def test_metrics_when_the_card_is_known_then_its_utilisation_and_memory_are_among_them(
    trained: Trained, folder: Path
) -> None:
    trained("one", "16 bits")
    line = lines(folder / "one" / "16 bits", "bf16")[-1]
    known = devices().kind == "cuda" and peak_flops(torch.cuda.get_device_name()) is not None
    assert ("mfu_percent" in line) is known
    assert line["peak_memory_mib"] > 0
