"""Batches that a thread reads ahead: their order, their error, and the end of the thread."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch

from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.loader import DeviceBatches, ReadAhead

pytestmark = pytest.mark.timeout(300)


def batch(number: int) -> Batch:
    return Batch(torch.zeros(1), torch.zeros(1, 1), torch.tensor([number]), None, [str(number)], {})


def reading(*items: Batch | BaseException, depth: int = 4) -> ReadAhead:
    def fill(ahead: ReadAhead) -> None:
        for item in items:
            ahead.hand_over(item)

    return ReadAhead(fill, depth=depth)


def asked(read: ReadAhead, seconds: float = 10.0) -> Batch | None:
    """What is ready once the thread has had its time."""
    until = time.monotonic() + seconds
    found = None
    while found is None and time.monotonic() < until:
        found = read.next_if_ready()
    return found


def test_batch_when_asked_for_without_waiting_then_it_keeps_its_place() -> None:
    read = reading(batch(1), batch(2), batch(3))
    first, second, third = next(read), asked(read), next(read)
    assert second is not None
    assert [first.uids, second.uids, third.uids] == [["1"], ["2"], ["3"]]
    assert read.next_if_ready() is None
    read.close()


def test_error_when_met_ahead_then_the_batches_before_it_come_and_then_it_is_raised_each_time() -> None:
    read = reading(batch(1), OSError("gone"))
    assert next(read).uids == ["1"]
    assert asked(read, 0.5) is None
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            next(read)
    assert read.next_if_ready() is None
    read.close()


def test_error_when_waited_for_then_it_is_raised_each_time() -> None:
    read = reading(OSError("gone"))
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            next(read)
    read.close()


def test_thread_when_nobody_takes_its_batches_then_it_ends_with_the_reading() -> None:
    ended = threading.Event()

    def fill(ahead: ReadAhead) -> None:
        while ahead.hand_over(batch(0)):
            pass
        ended.set()

    read = ReadAhead(fill, depth=1)
    next(read)
    read.close()
    assert ended.is_set()


def test_thread_when_nobody_takes_its_batches_then_it_makes_one_more_than_may_wait() -> None:
    made: list[int] = []

    def fill(ahead: ReadAhead) -> None:
        made.append(0)
        while ahead.hand_over(batch(0)):
            made.append(0)

    def makes(number: int) -> None:
        until = time.monotonic() + 60
        while len(made) < number and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)  # one too many would come now
        assert len(made) == number

    read = ReadAhead(fill, depth=2)
    makes(3)
    next(read)
    makes(4)
    read.close()


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
