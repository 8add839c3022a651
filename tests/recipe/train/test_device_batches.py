"""Batches on a device: which copy is under way when, and that no stream overtakes another."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.read_ahead import DeviceBatches, ReadAhead


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.recipe.train.device_batches_program"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout)


def test_batches_on_a_device_are_those_that_were_read_in_their_order(seen: dict[str, Any]) -> None:
    assert seen["means"] == [1, 2, 3, 4, 5, 6]
    assert seen["lengths"] == [[number % 4 + 1] * 2 for number in range(1, 7)]


def test_batch_when_taken_then_the_next_one_sets_out_unless_it_is_still_being_read(seen: dict[str, Any]) -> None:
    assert [len(each) for each in seen["copies"]] == [1, 1, 0, 1, 1, 1]
    assert "compute" not in {stream for each in seen["copies"] for stream in each}


def test_batch_when_used_and_dropped_without_a_wait_of_the_host_then_no_stream_overtakes_another(
    seen: dict[str, Any],
) -> None:
    assert seen["races"] == []


def test_batches_on_a_cpu_are_those_that_were_read_and_their_end_ends_the_reading() -> None:
    batch = Batch(torch.zeros(1), torch.zeros(1, 1), torch.tensor([1]), None, ["a"], {})

    def fill(ahead: ReadAhead) -> None:
        for item in (batch, OSError("gone")):
            ahead.hand_over(item)

    read = ReadAhead(fill, depth=2)
    batches = DeviceBatches(read, torch.device("cpu"))
    assert next(batches) is batch
    with pytest.raises(OSError, match="gone"):
        next(batches)
    batches.close()
    assert read.closed.is_set()
