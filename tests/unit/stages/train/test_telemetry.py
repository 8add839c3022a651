"""Telemetry of rank 0: lines, warnings, and what it hands over to trackers."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import record_function

from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.tracking import Tracking
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.engine import Losses
from diht_k8s.stages.train.metrics import Metrics
from diht_k8s.stages.train.telemetry import (
    FIRST_STEP,
    LAG_LINES,
    WINDOW,
    Profiler,
    Spikes,
    Telemetry,
    TrainStep,
    slowest,
)
from tests.folders import flat


def step(
    number: int, *, loss: float = 2.0, own: tuple[float, ...] = (1.0,), loss_scale: float | None = None
) -> TrainStep:
    order = CursorOrder(lanes=1, block=64, window=64, epoch=80)
    cursor = Cursor(step=number, position=number * 8, order=order, config_sha256="ours", seconds=float(number))
    shares = {"image_to_text_top1": 0.5, "text_to_image_top1": 0.5, "hardest_weight": 1.5, "duplicate_share": 0.25}
    losses = Losses(total=loss, contrastive=loss, object=0.0, attribute=0.0, embedding=0.0, regression=0.0, **shares)
    batch = Batch(torch.zeros(0), torch.zeros(1, 4), torch.zeros(0), None, [], {})
    return TrainStep(cursor, losses, 1e-3, 14.0, lambda: 0.7, own, loss_scale, batch, {}, last=True)


def observer(folder: Path, world: int = 1, tracking: Tracking | None = None) -> tuple[Telemetry, Metrics]:
    metrics = Metrics(Storage(), flat(folder), step=0, tracking=tracking)
    return Telemetry(metrics, None, batch_size=8, world=world), metrics


def test_bandwidth_of_the_fabric_is_in_the_first_line_of_an_attempt(tmp_path: Path) -> None:
    metrics = Metrics(Storage(), flat(f"{tmp_path}/out"), step=0)
    telemetry = Telemetry(metrics, None, batch_size=8, world=2, bus_bandwidth=92.5)
    for number in (1, 2):
        telemetry.add(step(number, own=(1.0, 1.0)), 0.0)
    assert telemetry.fabric == {"bus_bandwidth_gb_per_second": 92.5}
    assert [line.get("bus_bandwidth_gb_per_second") for line in metrics.lines] == [92.5, None]


class CountingTokens:
    """A meter that takes each token for an operation."""

    def operations(self, batch: Batch) -> float:
        return float(batch.tokens_BT.numel())

    def percent(self, operations: float, seconds: float) -> float:
        assert seconds > 0
        return operations


def test_utilisation_is_of_the_steps_since_the_last_line(tmp_path: Path) -> None:
    metrics = Metrics(Storage(), flat(f"{tmp_path}/out"), step=0)
    telemetry = Telemetry(metrics, CountingTokens(), batch_size=8, world=1)  # type: ignore[arg-type]
    for number, last in ((1, True), (2, False), (3, False), (4, True)):
        telemetry.add(replace(step(number), last=last), 0.0)
    assert [line["mfu_percent"] for line in metrics.lines] == [4.0, 12.0]


class Remembering:
    """A tracker that keeps what it gets, or refuses it."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.lines: list[tuple[int | None, dict[str, Any]]] = []
        self.finished, self._refuses = False, refuses

    def log(self, figures: Any, step: int | None) -> None:
        if self._refuses:
            raise OSError("the service is gone")
        self.lines.append((step, figures))

    def finish(self) -> None:
        self.finished = True


def test_tracker_when_a_line_is_written_then_gets_its_figures_under_the_steps_number(tmp_path: Path) -> None:
    tracker = Remembering()
    watch, metrics = observer(tmp_path, tracking=Tracking({"any": lambda: tracker}))
    watch.add(step(7), 0.0)
    metrics.finish()
    assert tracker.finished
    assert [number for number, _ in tracker.lines] == [7]
    assert tracker.lines[0][1].keys() == {f"train/{key}" for key in metrics.lines[0] if key not in ("step", "time")}


def test_tracker_when_it_refuses_a_line_then_is_counted_and_the_training_goes_on(tmp_path: Path) -> None:
    watch, metrics = observer(tmp_path, tracking=Tracking({"any": lambda: Remembering(refuses=True)}))
    watch.add(step(1), 0.0)
    metrics.finish()
    assert watch.failures(0) == {"failed_metrics": 1}
    assert len(metrics.lines) == 1


def test_line_when_written_then_every_figure_is_there_and_the_loss_scale_with_fp16_only(tmp_path: Path) -> None:
    watch, _ = observer(tmp_path)
    watch.add(step(1), 0.1)
    watch.add(step(2, loss_scale=1024.0), 0.1)
    first, second = map(json.loads, (tmp_path / "train" / "metrics.jsonl").read_text().splitlines())
    assert first.keys() == {
        "step",
        "samples",
        "time",
        "loss",
        "contrastive_loss",
        "object_loss",
        "attribute_loss",
        "lr",
        "logit_scale",
        "embedding_loss",
        "regression_loss",
        "gradient_norm",
        "image_to_text_top1",
        "text_to_image_top1",
        "hardest_negative_weight",
        "samples_per_second",
        "duplicate_caption_share",
        "data_wait_percent",
        "peak_memory_mib",
        "loss_spikes",
    }
    assert second.keys() - first.keys() == {"loss_scale"}
    assert second["loss_scale"] == 1024


def test_loss_when_it_jumps_then_in_the_metrics_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, metrics = observer(tmp_path)
    for number in range(WINDOW):
        watch.add(step(number, loss=2.0 + 0.01 * (number % 3)), 0.0)
    watch.add(step(WINDOW, loss=9.0), 0.0)
    assert [line["loss_spikes"] for line in metrics.lines] == [0] * WINDOW + [1]
    assert f"loss spike at step {WINDOW}: 9 after a median of 2.01" in caplog.text


def test_rank_when_it_lags_for_some_lines_then_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch, metrics = observer(tmp_path, world=3)
    with caplog.at_level(logging.WARNING):
        for number in range(LAG_LINES + 1):
            watch.add(step(number, own=(1.0, 1.0, 4.0)), 0.0)
    assert metrics.lines[-1]["slowest_rank"] == 2
    assert metrics.lines[-1]["slowest_rank_ratio"] == pytest.approx(4.0)
    assert caplog.text.count("rank 2 takes 4.0 times as long as the others") == 1


def losses(*, level: float = 4.0, noise: float = 0.05, number: int = 100) -> list[float]:
    return [level + noise * (-1) ** index for index in range(number)]


@pytest.mark.parametrize(
    ("before", "loss", "spike"),
    [
        (losses(), 4.2, False),
        (losses(), 4.9, True),
        (losses(), 3.0, False),
        (losses(noise=1e-6), 4.1, False),
        (losses(noise=1e-6), 4.3, True),
        (losses(number=99), 40.0, False),
    ],
    ids=["usual", "jump", "fall", "flat, small", "flat, jump", "too early"],
)
def test_spikes_when_a_loss_comes_then_only_jumps_count(before: list[float], loss: float, spike: bool) -> None:
    spikes = Spikes()
    assert [spikes.add(value) for value in before] == [None] * len(before)
    assert (spikes.add(loss) is not None) is spike
    assert spikes.count == int(spike)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([1.0], (0, 1.0)), ([1.0, 3.0], (1, 3.0)), ([2.0, 2.0, 2.0, 5.0], (3, 2.5)), ([0.0, 0.0], (0, 1.0))],
)
def test_slowest_when_ranks_took_their_time_then_the_one_that_others_waited_for(
    seconds: list[float], expected: tuple[int, float]
) -> None:
    assert slowest(seconds) == expected


def recorded(folder: Path) -> list[int]:
    """Steps in the trace of rank 3."""
    trace = json.loads(gzip.decompress((folder / "train/profile/rank-00003.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    return sorted(int(name.removeprefix("step ")) for name in names if name.startswith("step "))


@pytest.mark.parametrize(
    ("steps", "ran", "expected"),
    [
        (2, FIRST_STEP + 5, [FIRST_STEP, FIRST_STEP + 1]),
        (3, FIRST_STEP + 1, [FIRST_STEP]),
        (1, FIRST_STEP, None),
        (0, FIRST_STEP + 5, None),
    ],
    ids=["whole", "ended within", "ended before", "off"],
)
def test_profile_when_steps_run_then_those_after_the_first_are_written(
    tmp_path: Path, steps: int, ran: int, expected: list[int] | None
) -> None:
    profiler = Profiler(Storage(), flat(tmp_path), steps=steps, rank=3)
    for number in range(ran):
        profiler.step()
        with record_function(f"step {number}"):
            pass
    written = (tmp_path / "train/profile").exists()
    assert written == (expected is not None and ran > FIRST_STEP + steps)
    profiler.finish()
    if expected is None:
        assert not (tmp_path / "train/profile").exists()
    else:
        assert recorded(tmp_path) == expected
        assert "Self CPU" in (tmp_path / "train/profile/rank-00003.txt").read_text()
