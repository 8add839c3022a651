"""Batches that a thread reads ahead: their order, their error, and the end of the thread."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.read_ahead import ReadAhead

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
