"""Trainings on the stand-in accelerator: what CUDA and NCCL would refuse is refused here, without a GPU.

Undoing the rank's device, the control group or the place of AdamW's step turns these tests red.

Several ranks train with one visible device each. With both devices visible they go up to the first loss only: a
backward pass on device 1 needs a device guard that says how many devices there are, and torch 2.13 lets a Python
backend give the guard's type alone (`torch._C._acc.DeviceGuard` has no other method to override; its count is 1).
DeepSpeed's streams are one with that of the computation; ours are checked for races. Kernels, memory and Triton are not
simulated.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import ON_STAND_IN, Job, document, make_data, train_in_ranks

STEPS, STOP, BATCH = 4, 2, 16
CASES = [(1, 0), (2, 0), (2, 2)]
"""Ranks and ZeRO stage."""
pytestmark = pytest.mark.timeout(900)  # for machines that do other things, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-in")
    make_data(folder / "data")
    return folder


def job(folder: Path, name: str, stop_after: int | None = None, **train: Any) -> Job:
    return Job(document(folder / name, data=folder / "data", samples=STEPS * BATCH, **train), stop_after)


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> dict[str, Any]:
    return train_in_ranks(1, {"whole": job(folder, "cpu")}, folder / "on cpu")["whole"]


Found = dict[tuple[int, int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Found:
    """Each training in two attempts, so that the second one resumes."""
    found: Found = {}
    for world in (1, 2):
        stages = [stage for ranks, stage in CASES if ranks == world]
        jobs = {
            f"{stage} {stop}": job(folder, f"{world}, {stage}", stop, zeroStage=stage)
            for stage in stages
            for stop in (STOP, None)
        }
        results = train_in_ranks(world, jobs, folder / f"ranks {world}", program=ON_STAND_IN)
        found |= {(world, stage): [results[f"{stage} {stop}"] for stop in (STOP, None)] for stage in stages}
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_when_resumed_on_accelerators_then_the_curve_and_weights_are_the_cpus(
    on_cpu: dict[str, Any], trained: Found, case: tuple[int, int]
) -> None:
    first, second = trained[case]
    assert first["error"].startswith(f"143 stopped on request at step {STOP}")
    assert second["error"] is None
    losses = torch.tensor(first["losses"] + second["losses"])
    torch.testing.assert_close(losses, torch.tensor(on_cpu["losses"]), rtol=0, atol=1e-4)
    for key, weight in on_cpu["weights"].items():
        torch.testing.assert_close(second["weights"][key], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_step_when_made_then_each_rank_waits_for_its_device_once_and_deepspeed_at_zero_0_for_nothing(
    trained: Found, case: tuple[int, int]
) -> None:
    waits = [each for attempt in trained[case] for each in attempt["waits"]]
    assert [each["diht_k8s"] for each in waits] == [1] * STEPS
    assert case[1] or [each.keys() - {"tests"} for each in waits] == [{"diht_k8s"}] * STEPS


def steps_of(found: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """The trace from the end of each step to that of the next one."""
    ends = [place for place, each in enumerate(found["trace"]) if each == ("host", "ends the step")]
    return [found["trace"][begin:end] for begin, end in pairwise(ends)]


@pytest.mark.parametrize("stage", [0, 2])
def test_batch_when_a_step_begins_then_it_is_on_the_device_and_the_next_one_is_on_its_way(
    trained: Found, stage: int
) -> None:
    for step in steps_of(trained[2, stage][1]):
        begins = step.index(("host", "begins a step"))
        copies = [stream for stream, what in step[:begins] if what == "copies in"]
        assert len(copies) == 1, step
        assert copies != ["compute"], step
    assert [found["races"] for found in trained[2, stage]] == [[[], []]] * 2


@pytest.mark.parametrize("stage", [0, 2])
def test_exchange_of_flags_when_a_step_is_made_then_it_runs_meanwhile(trained: Found, stage: int) -> None:
    for step in steps_of(trained[2, stage][1]):
        order = [what for stream, what in step if stream == "host" and what != "waits"]
        assert order == ["ends the step", "has the exchange", "begins the exchange", "begins a step"]


def test_gang_when_two_devices_are_in_a_pod_then_each_rank_uses_its_own(folder: Path, on_cpu: dict[str, Any]) -> None:
    jobs = {f"zero {stage}": job(folder, f"two, zero {stage}", zeroStage=stage) for stage in (0, 1)}
    found = train_in_ranks(2, jobs, folder / "two", program=ON_STAND_IN, STAND_IN_DEVICES="2")
    for result in found.values():
        assert result["devices"] == [["acc:0"], ["acc:1"]]
        assert result["loss"] == pytest.approx(on_cpu["losses"][0][0], abs=1e-4)
        assert result["stop"]
