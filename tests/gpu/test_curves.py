"""Trainings on one card and on all: each ends on the curve of one process with ZeRO 0 in fp32, whatever is divided.

Each group of trainings has processes of its own, so that one that breaks its process leaves the others' results.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.recipe.train.estimate.gpus import peak_flops
from tests.gpu.devices import devices
from tests.recipe.train.small_run import RANK_PROGRAM, Job, document, lines, make_data, train_in_ranks

STEPS, BATCH = 8, 32
PARTS = {"microBatchSize": 2}
FIRST_SCALE = 2.0**12
"""Of fp16: no gradient of this model overflows with it, so that no step is skipped and the curves can be compared."""
Trained = Callable[[str, str], dict[str, dict[str, Any]]]
"""(one or all cards, group) -> the results of its trainings."""
Attempts = list[dict[str, Any]]
"""Settings of each attempt of a training; all but the last are stopped after two steps."""

GROUPS: dict[str, dict[str, Attempts]] = {
    "basic": {
        "zero 0": [{}],
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
    },
    "compile": {
        "compile": [{"compile": True}],
        "compile, zero 1": [{"compile": True, "zeroStage": 1, **PARTS}],
    },
}
TOLERANCES = {"basic": 1e-4, "offload": 1e-4, "zero 3": 1e-4, "16 bits": 1e-1, "compile": 1e-3}
CASES = [pytest.param(group, name, id=name) for group, found in GROUPS.items() for name in found]
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

    def once(cards: str, group: str) -> dict[str, dict[str, Any]]:
        if (cards, group) not in done:
            try:
                done[cards, group] = train(cards, group)
            except AssertionError as error:  # not again for each test: a hang takes minutes
                done[cards, group] = f"the processes of {group} on {cards} ended with {error}"
        if isinstance(done[cards, group], str):
            pytest.fail(done[cards, group])
        return done[cards, group]

    def train(cards: str, group: str) -> dict[str, dict[str, Any]]:
        place = folder / cards / group
        jobs = {}
        for name, attempts in GROUPS[group].items():
            for number, settings in enumerate(attempts):
                stop = 2 if number < len(attempts) - 1 else None
                run = document(place / name, data=folder / "data", **body(folder, settings))
                fp16 = FIRST_SCALE if settings.get("precision") == "fp16" else None
                jobs[f"{name} {number}"] = Job(run, stop, fp16_scale=fp16)
        world = 1 if cards == "one" else devices().all
        program = RANK_PROGRAM.parents[2] / "gpu" / "rank.py"
        return train_in_ranks(world, jobs, place / "ranks", program=program, seconds=1100, **devices().variables)

    return once


def body(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    found = {"samples": STEPS * BATCH, "batchSize": BATCH, "loaderWorkers": 0, "collectiveTimeoutSeconds": 120}
    if "validation" in settings:
        settings = {"validation": {**settings["validation"], "shards": [f"{folder}/data/made/filter/kept/*.tar"]}}
    return {**found, **settings}


def whole(results: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
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
    (reference,) = whole(trained("one", "basic"), "zero 0")
    found = whole(trained(cards, group), name)
    assert steps_of(found, "uids") == reference["uids"]
    ours, theirs = (torch.tensor(losses) for losses in (steps_of(found, "losses"), reference["losses"]))
    assert ours.shape == (STEPS, 4)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES[group])


@pytest.mark.parametrize("cards", CARDS)
def test_ranks_when_trained_then_each_on_its_own_device_over_the_devices_backend(trained: Trained, cards: str) -> None:
    results = trained(cards, "basic")
    world = 1 if cards == "one" else devices().all
    expected = [f"cuda:{rank}" for rank in range(world)] if devices().kind == "cuda" else ["cpu"] * world
    assert {(result["backend"], *result["devices"]) for result in results.values()} == {(devices().backend, *expected)}


def test_training_when_the_loss_falls_then_the_curves_say_something(trained: Trained) -> None:
    (reference,) = whole(trained("one", "basic"), "zero 0")
    first, *_, last = reference["losses"]
    assert last[0] < first[0] - 0.1


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
