"""Checkpoints are written beside the training: one at a time, committed when all is there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.errors import RetryableError, StopRequested
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder
from diht_k8s.stages.train.checkpoint.checkpointer import Checkpointer
from diht_k8s.stages.train.metrics import Metrics
from tests.folders import flat


class SlowStorage(Storage):
    """Writes no state before it may."""

    def __init__(self) -> None:
        super().__init__([])
        self.may_write = threading.Event()
        self.error: Exception | None = None

    def write_bytes(self, uri: str, data: bytes) -> None:
        if uri.endswith(".safetensors"):
            assert self.may_write.wait(30)
            if self.error is not None:
                raise self.error
        super().write_bytes(uri, data)


ORDER = CursorOrder(lanes=2, block=64, window=64, epoch=80)


def cursor(step: int) -> Cursor:
    return Cursor(step=step, position=step * 16, order=ORDER, config_sha256="ours", seconds=1.0)


@pytest.fixture
def slow(tmp_path: Path) -> tuple[SlowStorage, Checkpointer, Metrics, str]:
    storage, layout = SlowStorage(), flat(tmp_path)
    return (
        storage,
        Checkpointer(storage, layout, keep=3, rank=0, world=1),
        Metrics(storage, layout, step=0),
        layout.checkpoints,
    )


def test_checkpoint_when_the_storage_is_slow_then_the_training_goes_on_and_nothing_half_written_counts(
    slow: tuple[Any, ...],
) -> None:
    storage, saver, metrics, folder = slow
    saver.begin({"weight": torch.ones(3)}, cursor(5), {"picture_unreadable": 2})
    assert saver.pending
    assert saver.busy
    assert checkpoint.newest(storage, folder, "ours") is None
    storage.may_write.set()
    assert saver.complete(metrics) == cursor(5)
    assert not saver.pending
    saved = checkpoint.newest(storage, folder, "ours")
    assert saved is not None
    assert saved.cursor.step == 5
    assert saved.cursor.bad == {"picture_unreadable": 2}


def test_checkpoint_when_another_is_still_written_then_refused_because_memory_is_for_one(slow: tuple[Any, ...]) -> None:
    storage, saver, _, _ = slow
    saver.begin({"weight": torch.ones(3)}, cursor(5), {})
    with pytest.raises(AssertionError):
        saver.begin({"weight": torch.ones(3)}, cursor(6), {})
    storage.may_write.set()


def test_checkpoint_when_it_cannot_be_written_then_counted_and_after_three_in_a_row_the_training_ends(
    slow: tuple[Any, ...],
) -> None:
    storage, saver, metrics, folder = slow
    storage.may_write.set()

    def save(step: int, error: Exception | None) -> Cursor | None:
        storage.error = error
        saver.begin({"weight": torch.ones(3)}, cursor(step), {})
        return saver.complete(metrics)

    full = RetryableError("the disk is full")
    assert [save(step, full) for step in (1, 2)] == [None, None]
    assert save(3, None) == cursor(3)
    assert [save(step, full) for step in (4, 5)] == [None, None]
    with pytest.raises(RetryableError, match=r"disk is full; no checkpoint was saved in 3 attempts in a row"):
        save(6, full)
    assert saver.failed == 5
    assert storage.folders(folder) == ["step-000000003"]
    assert checkpoint.newest(storage, folder, "ours") is not None


def test_checkpoint_when_a_newer_attempt_has_begun_then_neither_marker_nor_metrics_are_touched(
    slow: tuple[Any, ...], tmp_path: Path
) -> None:
    storage, saver, _, folder = slow
    metrics = Metrics(storage, flat(tmp_path), step=0, fence=saver.fence)
    metrics.add({"step": 1, "loss": 1.0})
    metrics.write()
    saver.begin({"weight": torch.ones(3)}, cursor(5), {})
    storage.may_write.set()
    newer = Checkpointer(storage, flat(tmp_path), keep=3, rank=0, world=1)
    metrics.add({"step": 2, "loss": 1.0})
    for act in (metrics.write, lambda: saver.complete(metrics)):
        with pytest.raises(StopRequested, match=r"attempt 2 has taken over"):
            act()
    assert storage.read_text(flat(tmp_path).metrics).count("\n") == 1
    assert checkpoint.newest(storage, folder, "ours") is None
    newer.begin({"weight": torch.zeros(3)}, cursor(5), {})
    assert newer.complete(Metrics(storage, flat(tmp_path), step=0)) == cursor(5)
    saved = checkpoint.newest(storage, folder, "ours")
    assert saved is not None
    assert saved.state["weight"].tolist() == [0, 0, 0]
    parts = {path.name for path in Path(folder, "step-000000005").glob("*.safetensors")}
    assert parts == {f"state-00000-{attempt:06d}.safetensors" for attempt in (1, 2)}


def test_complete_when_nothing_is_written_then_nothing_happens(slow: tuple[Any, ...]) -> None:
    assert slow[1].complete(slow[2]) is None
