"""Writes that the storage refuses: telemetry and single checkpoints may fail, the last checkpoint and the export may
not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipe.train.small_run import Job, document, lines, make_data, train_in_ranks

STEPS, EVERY, BATCH = 10, 2, 16
"""The last checkpoint that may be lost is that of step 6: the next one is taken at step 8, and step 9 tells of the
loss."""
ALWAYS = 10**6
MARKER, PART, MODEL = "COMMITTED.json", "state-", "open_clip_model"
LAST = f"step-{STEPS:09d}"
pytestmark = pytest.mark.timeout(600)  # for machines that do other things, too

Refused = tuple[str, str, int, int]
# Name -> what is refused (by the last rank, or by rank 0: part of the URI, first, number), and how the training ends.
SURVIVED: dict[str, list[Refused]] = {
    "undisturbed": [],
    "telemetry, and the model once": [
        ("first", "preflight.json", 0, ALWAYS),
        ("first", "metrics.jsonl", 0, 4),
        ("first", "tensorboard", 0, ALWAYS),
        ("first", MODEL, 0, 1),
    ],
    "a part": [("last", PART, 2, 1)],
    "two parts in a row": [("last", PART, 1, 2)],
    "a marker": [("first", MARKER, 2, 1)],
    "the last part": [("last", f"{LAST}/{PART}", 0, 1)],
    "the last marker": [("first", f"{LAST}/{MARKER}", 0, 1)],
}
ENDED: dict[str, list[Refused]] = {
    "all parts": [("last", PART, 0, ALWAYS)],
    "all markers": [("first", MARKER, 1, ALWAYS)],
    "the last part for ever": [("last", f"{LAST}/{PART}", 0, ALWAYS)],
    "the model for ever": [("first", MODEL, 0, ALWAYS)],
}

LOST = {"a part": [6], "two parts in a row": [4, 6], "a marker": [6], "the last part": [], "undisturbed": []}
"""Steps whose checkpoint is lost."""
ALONE = ("undisturbed", "telemetry, and the model once", "a part", "all parts")
"""Trainings of one process, where its parts and markers are of the same rank."""
CASES = [*((2, name) for name in SURVIVED | ENDED), *((1, name) for name in ALONE)]


def cases(*names: str) -> list[tuple[int, str]]:
    """Those of CASES that have one of these names."""
    return [(world, name) for world, name in CASES if name in names]


def job(folder: Path, world: int, name: str, rules: list[Refused]) -> Job:
    settings = {"samples": STEPS * BATCH, "checkpoint": {"everySamples": EVERY * BATCH, "keep": 100}}
    run = document(folder / f"{world}" / name, data=folder / "data", **settings)
    refused = ((0 if who == "first" else world - 1, part, first, number) for who, part, first, number in rules)
    return Job(run, refused=tuple(refused))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lost writes")
    make_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    found = {}
    for world in (1, 2):
        names = [name for ranks, name in CASES if ranks == world]
        jobs = {name: job(folder, world, name, (SURVIVED | ENDED)[name]) for name in names}
        jobs |= {f"{name} again": job(folder, world, name, []) for name in names if name in ENDED}
        results = train_in_ranks(world, jobs, folder / f"world {world}")
        found |= {(world, name): result for name, result in results.items()}
    return found


def committed(folder: Path, world: int, name: str) -> list[str]:
    """Checkpoints with a marker; one without is an assertion error, since nothing half is left."""
    found = sorted((folder / f"{world}" / name / "out" / "runs/latest/train" / "checkpoints").glob("step-*"))
    assert [path.name for path in found if not (path / MARKER).exists()] == []
    return [path.name for path in found]


@pytest.mark.parametrize(("world", "name"), cases(*SURVIVED))
def test_training_when_a_write_is_lost_then_it_ends_with_the_same_weights(
    trained: dict[tuple[int, str], dict[str, Any]], folder: Path, name: str, world: int
) -> None:
    result, undisturbed = trained[world, name], trained[world, "undisturbed"]
    assert result["error"] is None
    assert result["weights"].keys() == undisturbed["weights"].keys()
    assert all(torch.equal(value, result["weights"][key]) for key, value in undisturbed["weights"].items())
    logged = [line["step"] for line in lines(folder / f"{world}", name)]
    assert (logged[0], logged[-1]) == (1, STEPS)


@pytest.mark.parametrize(("world", "name"), cases(*LOST))
def test_checkpoint_when_lost_then_the_next_ones_are_there_and_it_is_counted(
    trained: dict[tuple[int, str], dict[str, Any]], folder: Path, world: int, name: str
) -> None:
    lost = LOST[name]
    steps = [f"step-{step:09d}" for step in range(EVERY, STEPS + 1, EVERY) if step not in lost]
    assert committed(folder, world, name) == steps
    if lost:
        assert lines(folder / f"{world}", name)[-1]["failed_checkpoints"] == len(lost)


@pytest.mark.parametrize(("world", "name"), cases(*ENDED))
def test_training_when_nothing_can_be_written_then_75_on_all_ranks_and_a_start_with_room_ends_in_the_same_weights(
    trained: dict[tuple[int, str], dict[str, Any]], folder: Path, name: str, world: int
) -> None:
    error = trained[world, name]["error"]
    assert error.startswith("75 ")
    assert "the test refuses it" in error
    if name != "the model for ever":
        assert "no checkpoint was saved in 3 attempts in a row (train.checkpoint.maxFailures)" in error
    steps = {"all parts": 0, "all markers": 1, "the last part for ever": 4, "the model for ever": 5}[name]
    assert len(trained[world, f"{name} again"]["losses"]) == STEPS - EVERY * steps
    weights, undisturbed = (trained[world, each]["weights"] for each in (f"{name} again", "undisturbed"))
    assert [key for key, value in undisturbed.items() if not torch.equal(value, weights[key])] == []


def test_metrics_when_lost_then_counted(trained: dict[tuple[int, str], dict[str, Any]], folder: Path) -> None:
    assert lines(folder / "1", "telemetry, and the model once")[-1]["failed_metrics"] >= 1
    assert "failed_metrics" not in lines(folder / "1", "undisturbed")[-1]
