"""A status with what the models do not know: the rest of it is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from diht_k8s.api.status import Status, wire
from diht_k8s.api.status_reading import ENTRIES, read_status

TIME = "2026-01-01T00:00:00Z"
FILTER = {"name": "filter", "stage": "filter", "state": "Complete", "attempt": 2}
TRAIN = {"name": "train", "stage": "train", "state": "Running", "attempt": 1}
SOUND: dict[str, Any] = {
    "observedGeneration": 3,
    "conditions": [{"type": "Accepted", "status": "True", "reason": "Valid", "lastTransitionTime": TIME}],
    "stages": [FILTER, TRAIN],
    "attempts": [{"stage": "filter", "number": 2, "uid": "u"}],
    "progress": {"stage": "train", "done": 4, "metrics": [{"name": "loss", "value": "1"}]},
}


@pytest.mark.parametrize(
    ("change", "unknown", "left"),
    [
        (lambda status: None, [], {}),
        (lambda status: status.update(notYetInvented=1), [], {}),
        (lambda status: status["stages"].insert(0, {**FILTER, "name": "mining"}), ["stage mining"], {}),
        (lambda status: status["stages"].insert(0, {**FILTER, "name": "train-2"}), ["stage train-2"], {}),
        (lambda status: status["stages"].insert(1, 5), ["stages[1]"], {}),
        (lambda status: status["stages"].insert(1, {"name": "label"}), ["stages[1]"], {}),
        (lambda status: status["stages"][1].update(backend="Slurm"), ["stages[1].backend"], {}),
        (lambda status: status["progress"]["metrics"].append({"name": "x"}), ["progress.metrics[1]"], {}),
        (lambda status: status["conditions"].append({"type": "Mine"}), ["conditions[1].type", "conditions[1]"], {}),
        (lambda status: status.update(stages="none"), ["stages"], {"stages": []}),
        (lambda status: status["stages"].append(FILTER), ["stages"], {"stages": []}),
        (lambda status: status.update(progress=[[]]), ["progress"], {"progress": None}),
    ],
)
def test_what_is_unknown_is_left_out_and_named(change: Any, unknown: list[str], left: dict[str, Any]) -> None:
    given = copy.deepcopy(SOUND)
    change(given)
    untouched = copy.deepcopy(given)
    read = read_status(given)
    assert wire(read.status) == wire(Status.model_validate(SOUND).model_copy(update=left))
    assert [place for place in unknown if place in read.unknown] == unknown
    assert bool(read.unknown) == bool(unknown)
    assert given == untouched


@pytest.mark.parametrize("document", [None, {}])
def test_no_status_is_an_empty_one(document: Any) -> None:
    assert read_status(document).status == Status()


def test_entries_are_the_stages_and_their_steps() -> None:
    assert sorted(ENTRIES) == [
        "evaluate",
        "filter",
        "label",
        "label-heads",
        "label-predict",
        "label-vocabulary",
        "train",
    ]


@pytest.mark.parametrize(("given", "read"), [(-1, 0), (2**31 - 1, 2**31 - 1), (2**31, 2**31 - 1), (10**30, 2**31 - 1)])
def test_count_is_what_a_status_can_hold(given: int, read: int) -> None:
    assert Status(restarts=given).restarts == read
